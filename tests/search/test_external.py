"""Samplers of Optuna's kind from anywhere, replayed by a new process."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from evomerge.errors import InputError
from evomerge.search.mirror import whole_point
from evomerge.search.samplers.making import make_sampler
from evomerge.search.sampling import SamplerContext, distributions
from evomerge.spaces import METHOD
from tests.search.driver import Driver, box, points
from tests.search.toy import toy_config, toy_space

HERE = "tests.search.test_external"


class Walk(BaseSampler):
    """Walks from the best trial, and counts what it was told: all of its state is in memory.

    Args:
        seed: of its steps.
        step: their size.
    """

    def __init__(self, *, seed: int, step: float = 0.1) -> None:
        self._rng = np.random.default_rng(seed)
        self._step = step
        self.told: list[TrialState] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any) -> Any:
        low, high = param_distribution.low, param_distribution.high
        at = study.best_params[param_name] if any(state == TrialState.COMPLETE for state in self.told) else low
        return float(np.clip(at + self._step * len(self.told) / 10 * self._rng.normal(), low, high))

    def after_trial(self, study: optuna.Study, trial: Any, state: TrialState, values: Any) -> None:
        self.told.append(state)


class Corner(Walk):
    """Knows one point."""

    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return param_distribution.low


NAMES = [
    ("optuna.samplers:CmaEsSampler", {}),
    ("optuna.samplers:NSGAIISampler", {"population_size": 6}),
    ("optuna.samplers:TPESampler", {"n_startup_trials": 6}),
    ("optuna.samplers:QMCSampler", {"scramble": True}),
    (f"{HERE}:Walk", {"step": 0.3}),
]


@pytest.mark.parametrize(("name", "options"), NAMES)
def test_a_new_process_proposes_what_the_old_one_would_have(name: str, options: dict[str, Any]) -> None:
    whole = Driver(name, options=options).run(30)
    resumed = Driver(name, options=options, history=whole[:10]).run(30)
    assert points(resumed) == points(whole)
    assert len({tuple(point.values()) for point in points(whole)}) == 30
    assert all(0.0 <= value <= 1.2 for point in points(whole) for value in point.values())
    other = Driver(name, options=options, history=whole[:20], seed=4)
    assert other.propose(20) != whole[20].params


@pytest.mark.parametrize("name", ["optuna.samplers:TPESampler", "optuna.samplers:NSGAIISampler"])
def test_several_objectives_and_constraints_are_told(name: str) -> None:
    whole = Driver(name, objectives=2, ceiling=0.5).run(24)
    assert points(Driver(name, objectives=2, ceiling=0.5, history=whole[:15]).run(24)) == points(whole)


def test_it_learns_from_trials_of_others() -> None:
    """The history is one of random points: none of them is what the sampler would have proposed."""
    driver = Driver("optuna.samplers:TPESampler", failing=0, history=Driver("random", failing=0).run(30))
    assert sum(trial.value or 0.0 for trial in driver.run(50)[30:]) > sum(t.value or 0.0 for t in driver.run(50)[3:23])


def test_trials_that_run_elsewhere_are_not_proposed_again() -> None:
    name = "optuna.samplers:QMCSampler"
    whole = Driver(name).run(12)
    running = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=whole[11].params, distributions=whole[11].distributions
    )
    assert Driver(name, history=[*whole[:11], running]).propose(12) != whole_point(running)


def test_every_candidate_of_a_small_space_is_tried_once_and_then_random_ones() -> None:
    """Two gates make three candidates: with both closed one is open all the same."""
    config = toy_config()
    space = toy_space(
        config.model_copy(
            update={
                "space": type(config.space).model_validate(
                    {"layers": "stack", "repeats": 1, "stack_block": 2, "stack_scale": 1.0, "weight": 1.0}
                )
            }
        )
    )
    driver = Driver("optuna.samplers:BruteForceSampler", space, failing=0)
    found = points(driver.run(5, starts=()))
    assert len({space.recipe(point).digest for point in found[:3]}) == 3
    assert any("proposes only points that exist" in note for note in driver.notes)


def test_a_choice_of_methods_is_suggested_before_what_depends_on_it() -> None:
    space = toy_space(toy_config(merge={"method": ["task_arithmetic", "ties"]}, space={"density": [0.2, 1.0]}))
    whole = Driver("optuna.samplers:TPESampler", space).run(24)
    for point in points(whole):
        assert set(point) == {METHOD, *(each.name for each in space.dimensions(point[METHOD]))}
    assert points(Driver("optuna.samplers:TPESampler", space, history=whole[:15]).run(24)) == points(whole)
    assert METHOD in distributions(space)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "optunna.samplers:TPESampler",
            {},
            r"must be importable, but optunna.samplers: .* is optunna installed",
        ),
        ("optuna.samplers:TPESampeler", {}, r"but got 'TPESampeler'; did you mean 'TPESampler'"),
        (
            "optuna.study:Study",
            {},
            r"must name a subclass of .*BaseSampler, but got 'optuna.study:Study'",
        ),
        ("optuna.samplers:BaseSampler", {}, r"must name a subclass of optuna.samplers.BaseSampler"),
        ("optuna.samplers:TPESampler", {"n_startup": 3}, r"a key of .*'n_startup'; did you mean 'n_startup_trials'"),
        ("optuna.samplers:GridSampler", {}, r"must have the key 'search_space' for optuna.samplers:GridSampler"),
        ("optuna.samplers:NSGAIISampler", {"population_size": 1}, r"must fit .* but it says: .*greater than or equal"),
        ("optuna.samplers:BruteForceSampler", {}, r"must be able to search this space .* but .*Brute"),
    ],
)
def test_what_is_wrong_is_said(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Driver(name, options=options).propose(0)


def test_a_sampler_of_one_objective_refuses_several() -> None:
    with pytest.raises(InputError, match=r"with 2 objective\(s\), but optuna.samplers:CmaEsSampler says"):
        Driver("optuna.samplers:CmaEsSampler", objectives=2).run(4)


def test_packages_of_the_hub_are_loaded_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = types.ModuleType("optunahub")
    loaded = []

    def load_module(package: str) -> Any:
        loaded.append(package)
        return sys.modules[HERE]

    hub.load_module = load_module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    assert set(Driver("optunahub:samplers/walk:Walk").propose(0)) == set(Driver("random").distributions)
    assert loaded[0] == "samplers/walk"
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(InputError, match="must have the package optunahub, but it is not installed"):
        make_sampler("optunahub:samplers/walk:Walk", SamplerContext(0, 0, box(1)))


def test_a_sampler_that_knows_one_point_gets_random_ones() -> None:
    driver = Driver(f"{HERE}:Corner", failing=0)
    found = points(driver.run(4, starts=()))
    assert len({tuple(point.values()) for point in found}) == 4
    assert len(driver.notes) == 3
