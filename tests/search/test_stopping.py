"""The end of a search before its last trial: when, why, and the same after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pytest

from evomerge.search.beliefs import numbers_of
from evomerge.search.curriculum import STAGE
from evomerge.search.problem import Problem
from evomerge.search.sampling import distributions
from evomerge.search.stages import stages
from evomerge.search.stopping import LEAST, STOPPED, Stopping, expected_gain
from evomerge.search.study import NOISE, ORIGIN
from tests.search.toy import ToyEvaluator, ToyMerger, ToyRun, toy_config, toy_space

TRIALS = 60

Floats = npt.NDArray[np.float64]


class Search:
    """A toy problem with a study in memory."""

    def __init__(self, **search: Any) -> None:
        self.config = toy_config(space={"layers": "uniform"}, search={"trials": TRIALS, "stop": "auto", **search})
        self.problem = Problem(self.config, ToyMerger(), ToyEvaluator(), toy_space(self.config))  # type: ignore[arg-type]
        self.study = optuna.create_study(direction="maximize")


def add(run: Search, places: float | Floats, value: float, noise: float | None = 0.05, **attributes: Any) -> None:
    """A finished trial whose numbers lie so far within their bounds, 0 to 1."""
    known = distributions(run.problem.space)
    units = np.broadcast_to(places, len(known))
    bounds = [(of.low, of.high) for of in known.values()]  # type: ignore[attr-defined]
    numbers = [low + float(unit) * (high - low) for unit, (low, high) in zip(units, bounds, strict=True)]
    attributes |= {} if noise is None else {NOISE: noise}
    run.study.add_trial(
        optuna.trial.create_trial(
            params=dict(zip(known, numbers, strict=True)), distributions=known, value=value, user_attrs=attributes
        )
    )


def converge(run: Search, count: int, **options: Any) -> None:
    """Trials around the top of a hill, the top first."""
    generator = np.random.default_rng(0)
    for number in range(count):
        places = np.clip(
            0.5 + 0.2 * (number > 0) * generator.standard_normal(len(distributions(run.problem.space))), 0, 1
        )
        add(run, places, 0.5 - float(((places - 0.5) ** 2).mean()), **options)


def climb(run: Search, count: int) -> None:
    """Trials from one end of the box half the way to the other, each better than the one before."""
    for number in range(count):
        add(run, number / count / 2, 0.5 + number / count / 2)


def test_a_search_that_has_converged_ends_and_says_why() -> None:
    run = Search()
    converge(run, 30)
    why = Stopping(run.problem, run.study).why(30)
    assert why.startswith("stopped after 30 of 60 trials: the other 30 are expected to add 0.0")
    assert "a standard error of 0.0500, cannot tell from luck" in why
    assert run.study.user_attrs[STOPPED] == why
    assert Stopping(run.problem, run.study).why(30) == why


def test_a_search_that_still_rises_goes_on() -> None:
    run = Search()
    climb(run, 30)
    assert Stopping(run.problem, run.study).why(30) == ""
    assert STOPPED not in run.study.user_attrs


def test_what_is_worth_finding_depends_on_the_noise() -> None:
    run = Search()
    converge(run, 30, noise=1e-5)
    assert Stopping(run.problem, run.study).why(30) == ""


def test_a_surrogate_that_promises_more_keeps_the_search_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Search()
    converge(run, 30)
    stopping = Stopping(run.problem, run.study)
    monkeypatch.setattr(stopping, "_promise", lambda trials, best: 0.03)
    assert stopping.why(30) == ""
    monkeypatch.setattr(stopping, "_promise", lambda trials, best: 0.02)
    assert stopping.why(30)


def test_the_promise_is_large_where_the_values_rise_towards_what_is_not_yet_tried() -> None:
    run = Search()
    climb(run, 30)
    stopping, trials = Stopping(run.problem, run.study), run.study.get_trials()
    assert stopping._promise(trials, float(stopping._record(trials)[-1])) > 0.1


@pytest.mark.parametrize(
    ("count", "trials", "options"),
    [
        (LEAST - 1, TRIALS, {}),  # too few
        (TRIALS, TRIALS, {}),  # none left
        (30, TRIALS, {"noise": None}),  # nobody knows what luck is
        (30, TRIALS, {ORIGIN: "sweep"}),  # the sampler has not had its turn
    ],
)
def test_when_nothing_is_said(count: int, trials: int, options: dict[str, Any]) -> None:
    run = Search()
    converge(run, count, **options)
    assert Stopping(run.problem, run.study, trials).why(count) == ""


def test_only_who_asks_for_it_is_stopped() -> None:
    run = Search(stop=None)
    converge(run, 30)
    assert Stopping(run.problem, run.study).why(30) == ""


def test_no_stage_but_the_last_ends_a_search() -> None:
    run = Search()
    last = len(stages(numbers_of(run.problem.space, "task_arithmetic"))) - 1
    converge(run, 25, **{STAGE: {"index": last - 1, "method": "task_arithmetic"}})
    stopping = Stopping(run.problem, run.study)
    assert stopping.why(25) == ""
    for number in range(5):  # as many as have to agree
        assert not stopping._in_last_stage(run.study.get_trials())
        add(run, 0.45 + number / 50, 0.49, **{STAGE: {"index": last, "method": "task_arithmetic"}})
    assert stopping.why(30)


def test_a_search_ends_where_it_would_have_after_an_interruption(tmp_path: Path) -> None:
    config = toy_config(
        space={"layers": "uniform", "weight": [0.6, 0.65]}, search={"trials": 26, "stop": "auto", "warm_start": []}
    )
    run = ToyRun(tmp_path, config)
    run.run(22)
    began = len(run.study.trials)
    again = ToyRun(tmp_path, config)
    again.run(26)
    ended = len(again.study.trials)
    assert ended < 26
    assert again.study.user_attrs[STOPPED].startswith(f"stopped after {ended} of")
    once_more = ToyRun(tmp_path, config)
    once_more.run(26)
    assert len(once_more.study.trials) == ended >= began


def test_the_record_grows_with_the_logarithm_of_trials() -> None:
    record = np.log2(np.arange(1, 33))
    assert expected_gain(record, 64) == pytest.approx(1.0)
    assert expected_gain(record, 32) == 0.0
    assert expected_gain(np.ones(32), 1000) == 0.0
    assert expected_gain(np.array([-np.inf, -np.inf, -np.inf, 0.5]), 8) == np.inf
