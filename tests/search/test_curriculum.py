"""The curriculum: its stages in a search, what it says of them, and what it finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from evomerge.search import beliefs as beliefs_module
from evomerge.search.acquisition import expected_improvement, propose
from evomerge.search.beliefs import Model, beliefs, numbers_of
from evomerge.search.curriculum import STAGE, first_stage_is_open
from evomerge.search.listener import Listener
from evomerge.search.sampling import choose_sampler, distributions
from evomerge.search.stages import stages
from evomerge.search.study import NOTES
from evomerge.search.surrogate import Posterior
from tests.search.toy import ToyRun, quality, toy_config, toy_space

SIZES: dict[Any, int] = {"search": 100, "select": 1, "report": 1}
DEEP = {"layers": "per_layer", "modules": ["attention", "mlp", "other"]}


class Told(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def searched(folder: Path, trials: int, **sections: Any) -> ToyRun:
    search = {"sampler": "auto", "trials": trials, "seed": 1, **sections.pop("search", {})}
    run = ToyRun(folder, toy_config(search=search, **sections), sizes=SIZES)
    run.listener = Told()
    run.run(trials)
    return run


def truth(run: ToyRun, params: dict[str, Any]) -> float:
    recipe = run.problem.space.recipe(params)
    return float(np.mean([quality(recipe, task.task) for task in run.evaluator.tasks]))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    return searched(tmp_path_factory.mktemp("deep"), 46, space=DEEP)


def test_stages_follow_one_another_and_each_is_explained_in_one_line(deep: ToyRun) -> None:
    steps = [(t.number, t.user_attrs[STAGE]) for t in deep.study.get_trials() if STAGE in t.user_attrs]
    indices = [step["index"] for _, step in steps]
    assert indices == sorted(indices)
    names = list(dict.fromkeys(step["name"] for _, step in steps))
    assert names[0] == "one number per expert"
    assert len(names) >= 3
    lines = [line for line in deep.listener.lines if line.startswith("stage ")]  # type: ignore[attr-defined]
    assert [line.split(":")[0].removeprefix("stage ") for line in lines] == names
    assert all("numbers, " in line and "; " in line for line in lines)
    kept = [line for t in deep.study.get_trials() for line in t.user_attrs.get(NOTES, [])]
    assert kept == lines


def test_the_first_stage_has_one_number_per_expert(deep: ToyRun) -> None:
    for trial in deep.study.get_trials():
        if trial.user_attrs.get(STAGE, {}).get("index") == 0:
            for expert in "ab":
                assert len({v for k, v in trial.params.items() if k.startswith(f"weight[{expert}]")}) == 1


def test_it_ends_near_the_best_where_random_proposals_do_not(deep: ToyRun, tmp_path: Path) -> None:
    believed = beliefs(deep.study, deep.problem.space, deep.evaluator.tasks)
    best = max(believed, key=lambda number: believed[number].mean)
    assert truth(deep, deep.study.get_trials()[best].params) > 0.91  # the best there is has 11/12, uniform weights 0.88
    random = searched(tmp_path, 40, space=DEEP, search={"sampler": "random"})
    proposed = {run: [truth(run, t.params) for t in run.study.get_trials()[11:40]] for run in (deep, random)}
    assert max(proposed[deep]) > max(proposed[random]) + 0.02


def test_in_every_stage_a_new_process_goes_on_as_the_old_one_would_have(deep: ToyRun, tmp_path: Path) -> None:
    begun = {trial.user_attrs[STAGE]["begun"] for trial in deep.study.get_trials() if STAGE in trial.user_attrs}
    assert len(begun) >= 3
    for trials in (*sorted({first + 2 for first in begun} | begun), 46):
        forget()
        run = ToyRun(tmp_path, deep.config, sizes=SIZES)
        run.run(trials)
    assert run.history() == deep.history()
    stages_of = [[t.user_attrs.get(STAGE) for t in each.study.get_trials()] for each in (run, deep)]
    assert stages_of[0] == stages_of[1]


def forget() -> None:
    """What a process keeps in memory."""
    beliefs_module._fits.clear()
    beliefs_module._points.clear()
    for cached in (beliefs_module.features_of, beliefs_module.numbers_of, stages):
        cached.cache_clear()


def test_beliefs_are_nearer_to_the_truth_than_scores(deep: ToyRun) -> None:
    believed = beliefs(deep.study, deep.problem.space, deep.evaluator.tasks)
    trials = deep.study.get_trials()
    true = np.array([truth(deep, t.params) for t in trials])
    off = {
        "scores": np.array([t.value for t in trials]) - true,
        "beliefs": np.array([believed[t.number].mean for t in trials]) - true,
    }
    spread = {name: float(np.std(each[15:])) for name, each in off.items()}
    assert spread["beliefs"] < spread["scores"]


def test_a_choice_of_methods_is_made_in_the_first_stage(tmp_path: Path) -> None:
    run = searched(
        tmp_path,
        50,
        merge={"method": ["task_arithmetic", "ties"]},
        space={"layers": "per_layer", "density": [0.2, 1.0]},
    )
    trials = [t for t in run.study.get_trials() if STAGE in t.user_attrs]
    late = {t.params["method"] for t in trials if t.user_attrs[STAGE]["index"] > 0}
    assert len(late) == 1
    assert all(t.state == TrialState.COMPLETE for t in trials)
    assert any(k.startswith("density") for t in run.study.get_trials() for k in t.params)


def test_gates_are_searched_after_the_numbers(tmp_path: Path) -> None:
    run = searched(tmp_path, 40, space={"layers": "stack", "stack_block": 2, "repeats": 2})
    stacks = [run.problem.space.recipe(t.params).stack for t in run.study.get_trials()]
    assert all(stack is None for stack in stacks[:20])
    assert len({str(stack) for stack in stacks[20:]}) > 3
    assert any(line.startswith("stage gates") for line in run.listener.lines)  # type: ignore[attr-defined]


@pytest.mark.parametrize("space", [{"layers": "dct", "order": 3}, {"layers": "knots", "knots": 3}])
def test_shapes_over_depth_come_after_levels(space: dict[str, Any], tmp_path: Path) -> None:
    run = searched(tmp_path, 40, space=space)
    for trial in run.study.get_trials():
        if trial.user_attrs.get(STAGE, {}).get("index") == 0:
            values = [list(group.parameters.values()) for group in run.problem.space.recipe(trial.params).groups]
            assert all(value == values[0] for value in values)
    assert max(t.user_attrs.get(STAGE, {"index": 0})["index"] for t in run.study.get_trials()) >= 1


def test_expected_improvement_is_that_of_draws() -> None:
    posterior = Posterior(np.array([0.5, 0.6]), np.array([0.1, 0.02]))
    draws = posterior.mean + posterior.sd * np.random.default_rng(0).standard_normal((400_000, 2))
    assert expected_improvement(posterior, 0.58) == pytest.approx(np.maximum(draws - 0.58, 0).mean(axis=0), abs=1e-3)


def test_proposals_lie_in_the_cube_and_climb() -> None:
    stage = stages(toy_space(toy_config(space=DEEP)).dimensions("task_arithmetic"))[-1]
    target = np.linspace(0.0, 1.0, stage.size)

    def score(points: np.ndarray) -> np.ndarray:
        return -np.asarray(((points - target) ** 2).sum(axis=1))

    base = np.full((1, stage.size), 0.5)
    found = propose(stage, base, score, np.random.default_rng(0))
    assert ((found.point >= 0) & (found.point <= 1)).all()
    assert found.improvement > score(base)[0]


@pytest.mark.parametrize(
    ("space", "objectives", "methods", "chosen"),
    [
        ({"layers": "uniform"}, 1, ["ties"], "auto"),
        (DEEP, 1, ["ties", "linear"], "auto"),
        ({"layers": "stack"}, 1, ["ties"], "auto"),
        ({"layers": "uniform"}, 2, ["ties"], "gp"),
        ({"layers": "uniform"}, 2, ["ties", "linear"], "tpe"),
        (DEEP, 4, ["ties"], "nsga2"),
    ],
)
def test_the_sampler_is_chosen_by_objectives_dimensions_and_choices(
    space: dict[str, Any], objectives: int, methods: list[str], chosen: str
) -> None:
    made = toy_space(toy_config(space=space, merge={"method": methods}))
    name, why = choose_sampler("auto", made, 60, objectives)
    assert name == chosen
    assert "dimensions" in why


def test_the_gradient_waits_for_the_first_of_several_stages(deep: ToyRun) -> None:
    trials = deep.study.get_trials()
    space = deep.problem.space
    assert first_stage_is_open(space, trials[:12], 46)
    assert not first_stage_is_open(space, trials, 46)
    assert not first_stage_is_open(space, trials[:12], 24)
    assert not first_stage_is_open(toy_space(toy_config(space={"layers": "uniform"})), trials[:12], 60)


def test_what_trials_keep_of_their_stage_is_plain_json(deep: ToyRun) -> None:
    for trial in deep.study.get_trials():
        json.loads(json.dumps(trial.user_attrs.get(STAGE), allow_nan=False))


def test_scores_outside_of_0_to_1_are_modelled_as_they_are() -> None:
    """Such as a perplexity: the same points and values, shifted by 3, are believed to be the same, shifted by 3."""
    space = toy_space(toy_config())
    dimensions = numbers_of(space, "task_arithmetic")
    generator = np.random.default_rng(0)
    points = generator.uniform(0.0, 1.2, (20, len(dimensions)))
    values = -((points - 0.7) ** 2).sum(axis=1)
    box = distributions(space)
    trials = [
        create_trial(params=dict(zip(box, map(float, point), strict=True)), distributions=box, value=float(value))
        for point, value in zip(points, values, strict=True)
    ]
    low, high = Model(dimensions, trials, values - 1.5), Model(dimensions, trials, values + 3.0)
    assert low.observed().mean + 4.5 == pytest.approx(high.observed().mean, abs=1e-6)
    assert np.corrcoef(high.observed().mean, values)[0, 1] > 0.99
