"""A random search of the same budget: its own study, the same budget, the same after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators.objective import objective
from evomerge.search.contest import Contestant, random_search
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.session import search
from evomerge.search.study import RESULT
from tests.search.toy import ToyRun, toy_config

TRIALS = 4


class KilledError(BaseException):
    pass


class Steps(Listener):
    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.steps = 0

    def stage(self, name: str, total: int, done: int) -> None:
        self.stages.append((name, total, done))
        self.steps = 0

    def step(self) -> None:
        self.steps += 1


def run_of(folder: Path, finalists: int = 2, **sections: Any) -> ToyRun:
    compared = {"trials": TRIALS, "compare": ["random"], "finalists": finalists, "warm_start": ["uniform"]}
    return ToyRun(folder, toy_config(search=compared, space={"layers": "uniform"}, **sections))


@pytest.fixture(autouse=True)
def _no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.search.session.check_same_inputs", lambda study, fingerprint: None)
    monkeypatch.setattr("evomerge.search.problem.Problem.fingerprint", lambda problem: {})


def other(run: ToyRun) -> optuna.Study:
    return optuna.load_study(study_name="toy/random", storage=run.storage)


def search_of(run: ToyRun) -> dict[str, Any]:
    return search(run.problem, run.study, run.storage.engine, Listener(), run.stop, TRIALS, None)


@pytest.mark.parametrize("evaluate", [{}, {"racing": True, "constraints": [{"task": "right", "at_least": "b"}]}])
def test_it_is_one_more_baseline_of_the_same_budget(evaluate: dict[str, Any], tmp_path: Path) -> None:
    run = run_of(tmp_path, evaluate=evaluate)
    result = search_of(run)
    row = result["baselines"]["random search"]
    assert run.study.user_attrs[RESULT] == result
    spent = run.ledger.count("search")
    assert spent <= row["documents"] < spent + 2 * 40 * 2  # the last candidate and finalists are finished
    assert row["trials"] == len(other(run).trials)
    low, high = row["difference_interval"]
    assert low <= row["difference"] <= high
    assert row["difference"] == pytest.approx(result["winner"]["objective"] - row["objective"])
    assert len(run.study.trials) == TRIALS
    points = [{tuple(trial.params.values()) for trial in study.trials} for study in (run.study, other(run))]
    assert not points[0] & points[1]


def test_what_is_scored_after_it_is_the_right_model(tmp_path: Path) -> None:
    run = run_of(tmp_path, finalists=1)  # whose weights were the live ones before the other search began
    result = search_of(run)
    winner = Recipe.model_validate_json(run.study.trials[result["winner"]["number"]].user_attrs["recipe"])
    truth = objective(run.evaluator.truth(winner, "report"), run.evaluator.tasks)
    assert result["winner"]["objective"] == pytest.approx(truth)


def test_crashes_change_nothing(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    expected = search_of(run_of(folders[0]))
    for chunk in (60, 37):  # of documents: within a trial of the other study, and within its final
        killed = run_of(folders[1])
        killed.evaluator.before_chunk = _kill_at(chunk)
        with pytest.raises(KilledError):
            search_of(killed)
    again = run_of(folders[1])
    assert search_of(again) == expected
    both = [[trial.params for trial in other(run_of(folder)).trials] for folder in folders]
    assert both[0] == both[1]
    last = run_of(folders[1])
    assert search_of(last) == expected
    assert last.evaluator.scored == []


def _kill_at(chunk: int) -> Callable[[int], None]:
    def kill(done: int) -> None:
        if done == chunk:
            raise KilledError

    return kill


def test_its_bar_counts_the_documents_of_the_budget(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.run(TRIALS)
    steps = Steps()
    found = contest(run, steps)
    assert found is not None
    budget = run.ledger.count("search")
    assert steps.stages == [("random", budget, 0)]
    assert steps.steps == budget
    steps = Steps()
    assert contest(run, steps) == found
    assert steps.stages == [("random", budget, budget)]
    assert steps.steps == 0


def test_a_space_in_which_nothing_works_makes_no_baseline(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.run(TRIALS)

    def fail(done: int) -> None:
        raise CandidateError("logits are NaN")

    run.evaluator.before_chunk = fail
    assert contest(run, Listener()) is None
    assert Ledger(run.storage.engine, "toy/random").count("search") == 0


def contest(run: ToyRun, listener: Listener) -> Contestant | None:
    return random_search(run.problem, run.study, run.storage.engine, run.scorer, listener, run.stop)
