"""Candidates that are tried first: where they come from, and that a crash neither loses nor doubles one."""

from __future__ import annotations

import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.engine.method import METHODS
from evomerge.engine.reference import reference_merge
from evomerge.errors import InputError
from evomerge.search.mirror import whole_point
from evomerge.search.study import NOTES, ORIGIN
from evomerge.search.warm_starts import check_warm_starts, warm_starts
from tests.search.processes import SIZES, Lines, ToyWorker, die_at_commit
from tests.search.toy import ToyRun, toy_config, toy_space

RECIPE = """
base: base
experts: [a, b]
method: task_arithmetic
groups: [{parameters: {weight: {a: 0.7, b: 0.4}}}]
"""
MERGEKIT = """
merge_method: task_arithmetic
base_model: base
models: [{model: a, parameters: {weight: 0.9}}, {model: b, parameters: {weight: 1.5}}]
dtype: float32
"""


def config(*starts: str, **sections: Any) -> Any:
    search = {"sampler": "random", "trials": 12, "warm_start": list(starts)}
    return toy_config(search=search, **sections)


def written(folder: Path, text: str, name: str = "known.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def origins(run: ToyRun) -> list[Any]:
    return [trial.user_attrs.get(ORIGIN) for trial in run.study.get_trials()]


class TestKnownRecipes:
    def test_a_recipe_becomes_the_nearest_point(self, tmp_path: Path) -> None:
        run = ToyRun(tmp_path, config("uniform", written(tmp_path, RECIPE)), sizes=SIZES)
        run.run(3)
        assert origins(run) == ["uniform", "recipe known.yaml", None]
        found = run.study.get_trials()[1].params
        assert {name: found[name] for name in found if "[a]" in name} == dict.fromkeys(
            [name for name in found if "[a]" in name], pytest.approx(0.7)
        )

    def test_what_a_mergekit_recipe_has_outside_of_the_box_is_said(self, tmp_path: Path) -> None:
        points, notes = warm_starts(toy_space(config()), ["a", "b"], [written(tmp_path, MERGEKIT)])
        (point,) = points.values()
        assert point is not None
        assert {value for name, value in point.items() if "[b]" in name} == {1.2}
        assert any("known.yaml" in note and "1.5" in note for note in notes)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (None, "must be a recipe in YAML, but: No such file"),
            (
                RECIPE.replace("task_arithmetic", "linear"),
                r"one of merge.method \(task_arithmetic\), but .* has linear",
            ),
            (RECIPE.replace("b]", "c]").replace("b:", "c:"), r"by name \(a, b\), but .* has a, c"),
            (RECIPE.replace("groups", "group"), "did you mean 'groups'"),
        ],
    )
    def test_a_recipe_that_cannot_be_started_from_is_refused(self, text: str | None, said: str, tmp_path: Path) -> None:
        path = str(tmp_path / "known.yaml") if text is None else written(tmp_path, text)
        with pytest.raises(InputError, match=said):
            check_warm_starts(["uniform", path], ["task_arithmetic"], ["a", "b"])

    def test_names_are_checked(self) -> None:
        check_warm_starts(["uniform", "experts", "sweep", "gradient"])
        with pytest.raises(InputError, match="got 'gradeint'; did you mean 'gradient'"):
            check_warm_starts(["gradeint"])


@pytest.mark.parametrize(
    ("method", "options", "swept"),
    [
        ("task_arithmetic", {}, 6),
        ("linear", {}, 0),
        ("linear", {"normalize": False}, 6),
        ("karcher", {}, 0),
        ("ties", {"normalize": True}, 0),
        ("ties", {}, 0),
        ("ties", {"normalize": False}, 6),
    ],
)
def test_a_sweep_of_shares_is_left_out(method: str, options: dict[str, Any], swept: int) -> None:
    space = toy_space(config(merge={"method": method}), options)
    points, _ = warm_starts(space, ["a", "b"], ["sweep"])
    assert len(points) == swept
    assert len({space.recipe(point).digest for point in points.values() if point}) == swept


@pytest.mark.parametrize(
    "method", [name for name in METHODS.names() if "weight" in {spec.name for spec in METHODS.get(name).parameters}]
)
def test_shares_are_where_a_common_factor_changes_nothing(method: str) -> None:
    base, *experts = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    parameters = METHODS.get(method).parameters
    numbers = {spec.name: [spec.default] * 2 if spec.per_expert else spec.default for spec in parameters}
    low, high = (
        reference_merge(method, base, dict(zip("ab", experts, strict=True)), {**numbers, "weight": [weight] * 2})
        for weight in (0.2, 0.6)
    )
    points, _ = warm_starts(toy_space(config(merge={"method": method})), ["a", "b"], ["sweep"])
    assert bool(points) != torch.allclose(low, high, atol=1e-6)


@pytest.mark.parametrize("commit", range(0, 14, 3))
def test_a_kill_while_they_are_put_in_front_neither_loses_nor_doubles_one(commit: int, tmp_path: Path) -> None:
    starts = config("uniform", "experts", "sweep")
    ToyRun(tmp_path, starts, sizes=SIZES)
    worker = ToyWorker(tmp_path, starts, 12, before=die_at_commit(commit))
    assert worker.end() == -signal.SIGKILL
    run = ToyRun(tmp_path, starts, sizes=SIZES)
    run.run(12)
    expected = list(warm_starts(run.problem.space, ["a", "b"], ["uniform", "experts", "sweep"])[0])
    assert origins(run) == [*expected, *[None] * (12 - len(expected))]


class FakeGradient:
    """Stands for the real start: says 0.9 everywhere, or nothing, and notes each time that it is asked."""

    found = True
    asked: Lines

    def __init__(self, problem: Any, *parts: Any) -> None:
        self._problem = problem

    def point(self, number: int) -> Any:
        self.asked.add(str(number))
        return (
            self._problem.space.constant("task_arithmetic", {"weight": {"a": 0.9, "b": 0.9}})[0] if self.found else None
        )


@pytest.fixture
def gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[FakeGradient]:
    module: Any = types.ModuleType("evomerge.search.gradient")
    module.GradientStart = FakeGradient
    monkeypatch.setitem(sys.modules, "evomerge.search.gradient", module)
    FakeGradient.asked = Lines(tmp_path / "asked")
    monkeypatch.setattr(FakeGradient, "found", True)
    return FakeGradient


class TestGradient:
    starts = config("gradient", "experts")

    def test_it_comes_last_and_its_point_is_kept(self, tmp_path: Path, gradient: type[FakeGradient]) -> None:
        run = ToyRun(tmp_path, self.starts, sizes=SIZES)
        run.run(4)
        assert origins(run) == ["expert a", "expert b", "gradient", None]
        trial = run.study.get_trials()[2]
        assert set(trial.params.values()) == {0.9}
        assert whole_point(trial) == trial.params
        assert gradient.asked.read() == ["2"]

    def test_without_a_point_the_sampler_proposes(
        self, tmp_path: Path, gradient: type[FakeGradient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gradient, "found", False)
        run = ToyRun(tmp_path, self.starts, sizes=SIZES)
        run.run(4)
        assert origins(run) == ["expert a", "expert b", None, None]
        trial = run.study.get_trials()[2]
        assert "the sampler proposes in its place" in trial.user_attrs[NOTES][0]
        assert len(trial.params) == len(run.study.get_trials()[0].params)
        assert trial.state.name == "COMPLETE"

    def test_it_is_computed_once_although_its_worker_dies_after_it(
        self, tmp_path: Path, gradient: type[FakeGradient]
    ) -> None:
        ToyRun(tmp_path, self.starts, sizes=SIZES).run(2)

        def before(run: ToyRun) -> None:
            run.evaluator.before_chunk = lambda done: os.kill(os.getpid(), signal.SIGKILL)

        worker = ToyWorker(tmp_path, self.starts, 4, before=before)
        assert worker.end() == -signal.SIGKILL
        run = ToyRun(tmp_path, self.starts, sizes=SIZES)
        run.run(4)
        assert gradient.asked.read() == ["2"]
        assert origins(run) == ["expert a", "expert b", "gradient", None]


def test_a_point_that_somebody_enqueues_through_optuna_is_tried(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, config(), sizes=SIZES)
    names = [dimension.name for dimension in run.problem.space.dimensions("task_arithmetic")]
    run.study.enqueue_trial(dict.fromkeys(names, 0.5))
    run.study.enqueue_trial({names[0]: 0.5})
    run.run(3)
    whole, part, proposed = run.study.get_trials()
    assert whole.params == dict.fromkeys(names, 0.5)
    assert part.state.name == "FAIL"
    assert f"{names[1]} must be in" in part.user_attrs["reason"]
    assert proposed.state.name == "COMPLETE"
