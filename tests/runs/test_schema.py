"""The schema for editors says what `load_config` says, as far as one key at a time goes."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from evomerge.errors import InputError
from evomerge.runs.files import as_yaml
from evomerge.runs.schema import SHIPPED, config_schema, schema_text
from evomerge.search.config import load_config, parse_config
from tests.runs.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted([*(ROOT / "examples").rglob("search*.yaml"), Path(__file__).with_name("search.yaml")])
MODELINE = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)
SMALL: dict[str, Any] = {"name": "a", "models": {"base": "b", "experts": ["c"]}, "evaluate": {"tasks": ["t"]}}

ACCEPTED = [
    {"models.base": {"model": "b", "revision": "main", "trust_remote_code": True}},
    {"models.experts": [{"model": "b", "adapter": "l", "name": "lang"}, "c"]},
    {"merge.method": "ties", "merge.options": {"normalize": True, "lambda": 0.5}},
    {"merge.method": ["ties", "linear"]},
    {"space": {"layers": "blocks", "blocks": 5, "modules": ["attention", "all"], "weight": [0, 1.2], "density": 0.5}},
    {"space": {"layers": "stack", "sources": ["merged", "c"], "max_layers": None, "stack_scale": 1}},
    {"evaluate.tasks": [{"perplexity": "notes.txt", "metric": "bits_per_byte"}, "t", {"task": "u", "weight": 2}]},
    {"evaluate.include_path": ["a", "b"], "evaluate.batch_size": 8, "evaluate.subset": "auto"},
    {"evaluate.constraints": [{"task": "t", "at_least": "base", "margin": 0.02}, {"task": "t", "at_most": 3}]},
    {"evaluate.racing": {"error": 0.1}, "evaluate.apply_chat_template": "tool_use"},
    {"search.timeout": "30m", "search.compare": "random", "search.sampler": "my.module:Sampler"},
    {"search.timeout": 90, "search.compare": [], "search.warm_start": ["uniform", "gradient", "best/recipe.yaml"]},
    {"runtime.memory_limit": "16GB", "runtime.trackers": "wandb", "runtime.device": "cuda:1"},
    {"runtime.memory_limit": None, "runtime.trackers": ["mlflow", "tensorboard"]},
]
REFUSED = [
    {"modles": {}},
    {"name": "no/slashes"},
    {"models.experts": []},
    {"models.base": {"modle": "b"}},
    {"merge.dtype": "float64"},
    {"merge.method": []},
    {"evaluate.tasks": []},
    {"evaluate.tasks": [{"task": "t", "weigth": 1}]},
    {"evaluate.splits": {"search": 1.5}},
    {"evaluate.constraints": [{"task": "t", "at_laest": 0.5}]},
    {"evaluate.subset": 4},
    {"search.trials": 0},
    {"search.timeout": "half an hour"},
    {"search.compare": "grid"},
    {"search.stop": "never"},
    {"runtime.device": "gpu"},
    {"runtime.workers": 0},
]
REFUSED_LATER = [
    {"merge.method": "tise"},
    {"merge.options": {"normalise": True}},
    {"space.layers": "per-layer"},
    {"space.densty": [0, 1]},
    {"space.weight": [0, 1, 2]},
    {"space.density": [0, 2]},
    {"search.sampler": "cma"},
    {"search.warm_start": ["unifrom"]},
    {"runtime.trackers": ["wanbd"]},
]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SHIPPED.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    raw = deepcopy(SMALL)
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = raw
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return raw


def test_the_shipped_schema_is_current() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == schema_text(), "run python -m evomerge.runs.schema"


def test_the_verb_prints_it(evomerge: Command) -> None:
    said = evomerge("schema")
    assert said.code == 0
    assert json.loads(said.out) == config_schema()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_examples_and_what_they_resolve_to_are_valid(path: Path, validator: Draft202012Validator) -> None:
    validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    validator.validate(yaml.safe_load(as_yaml(load_config(path))))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_examples_point_editors_at_the_schema(path: Path) -> None:
    found = MODELINE.search(path.read_text(encoding="utf-8"))
    assert found is not None
    assert (path.parent / found[1]).resolve() == ROOT / "src" / "evomerge" / SHIPPED.name


def test_the_documented_configuration_is_valid(validator: Draft202012Validator) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    whole = [block for block in blocks if block and "models" in block]
    assert whole
    for block in whole:
        validator.validate(block)
        parse_config(block, "docs/configuration.md")


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_what_the_search_takes_is_valid(changes: dict[str, Any], validator: Draft202012Validator) -> None:
    parse_config(changed(changes), "test")
    validator.validate(changed(changes))


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_what_the_search_refuses_is_not(changes: dict[str, Any], validator: Draft202012Validator) -> None:
    with pytest.raises(InputError):
        parse_config(changed(changes), "test")
    with pytest.raises(ValidationError):
        validator.validate(changed(changes))


@pytest.mark.parametrize("changes", REFUSED_LATER, ids=str)
def test_names_and_ranges_that_only_members_know_are_in_the_schema(
    changes: dict[str, Any], validator: Draft202012Validator
) -> None:
    with pytest.raises(ValidationError):
        validator.validate(changed(changes))


def test_every_key_is_explained() -> None:
    sections = set(SMALL) | {"merge", "space", "search", "runtime", "base", "experts"}
    forms = [form for told in config_schema()["$defs"].values() for form in (told, *told.get("anyOf", ()))]
    told = [(name, told) for form in forms for name, told in form.get("properties", {}).items()]
    assert len(told) > 80
    assert [name for name, each in told if "description" not in each and name not in sections] == []
