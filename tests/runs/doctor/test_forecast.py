"""What a run keeps of its forecast, and what keeps it from nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.runs.doctor import forecast
from evomerge.runs.doctor.forecast import ACTUAL, CONFLICT, FORECAST, LEAKS, remember, remember_actual
from evomerge.runs.run import Run, create_run, open_run
from evomerge.search.problem import Problem, build_problem
from tests.runs.doctor.conftest import configured


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build_problem(configured("search.trials=9", "runtime.device=cpu", "evaluate.limit=60"))


@pytest.fixture
def run(problem: Problem, tmp_path: Path) -> Run:
    return create_run(problem.config, tmp_path / "run", problem.evaluator.tasks)


def _notes(run: Run) -> list[str]:
    path = run.folder / "events.jsonl"
    return [json.loads(line)["text"] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_keeps_its_forecast_and_what_it_took(run: Run, problem: Problem) -> None:
    remember(run, problem)
    remember_actual(run)
    assert _notes(run) == []
    kept = open_run(run.folder).study.user_attrs
    assert {"merge", "score", "sampler", "total", "wall"} <= kept[FORECAST]["seconds"].keys()
    assert kept[FORECAST]["documents"] > 0
    assert kept[FORECAST]["memory"]["host"] > 2**20
    assert [pair["b"] for pair in kept[CONFLICT]["pairs"]] == ["add", "facts", "facts"]
    assert kept[LEAKS] == []
    assert kept[ACTUAL]["memory"]["host"] > 2**20
    assert kept[ACTUAL]["seconds"]["wall"] >= 0


def test_the_models_weights_are_left_as_they_are(run: Run, problem: Problem) -> None:
    before = {name: weight.clone() for name, weight in problem.merger.model.named_parameters()}
    remember(run, problem)
    assert all(bool((weight == before[name]).all()) for name, weight in problem.merger.model.named_parameters())


def test_what_cannot_be_foreseen_is_one_note_each(run: Run, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(forecast, "_forecast", fail)
    monkeypatch.setattr(forecast, "_leaks", fail)
    remember(run, problem)
    assert _notes(run) == ["no forecast: RuntimeError: no luck", "no leaks: RuntimeError: no luck"]
    assert FORECAST not in run.study.user_attrs
    assert CONFLICT in run.study.user_attrs


def test_a_database_that_is_away_loses_no_run(run: Run, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(run.study, "set_user_attr", fail)
    monkeypatch.setattr(run.events, "note", fail)
    remember(run, problem)
    remember_actual(run)
