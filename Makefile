# `make test` and `make quickstart` set up everything they need in .venv and can be repeated.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUN := outputs/quickstart

.PHONY: help setup test lint types rooms unit exhaustive quickstart example docs schema clean

help: ## show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## install the package, editable, with the tested versions of everything

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python must be 3.11 or newer, but got " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

test: lint types rooms unit ## everything that has to pass before a commit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

rooms: $(INSTALLED)
	$(BIN)/lint-imports --no-cache --no-logo

unit: $(INSTALLED)
	$(BIN)/pytest -n 2 -m 'not exhaustive'

exhaustive: $(INSTALLED) ## the long tests: 200 kills, 100,000 malformed inputs
	$(BIN)/pytest -n 2 -m exhaustive

quickstart: $(INSTALLED) ## search the embedded example, and export the best checkpoint
	@if [ -f $(RUN)/config.yaml ]; then $(BIN)/evomerge resume $(RUN); \
	else $(BIN)/evomerge run examples/quickstart/search.yaml --out $(RUN); fi
	@test -d $(RUN)/model || $(BIN)/evomerge export $(RUN) --to $(RUN)/model

example: $(INSTALLED) ## train the embedded example's models again
	$(BIN)/python examples/quickstart/train.py

docs: $(INSTALLED) ## build the documentation's site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

schema: $(INSTALLED) ## write the configuration's schema
	$(BIN)/python -m evomerge.runs.schema

clean: ## remove the environment, caches and outputs
	rm -rf $(VENV) .cache outputs build dist src/*.egg-info .mypy_cache .ruff_cache .hypothesis
