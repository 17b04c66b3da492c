"""The contract of every sampler; a new one is under these tests as soon as its file exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InputError, InterruptedRunError
from evomerge.search.sampling import SAMPLERS, choose_sampler
from tests.search.toy import ToyRun, toy_config, toy_space

TRIALS = 26  # past the warm starts and past the start-up trials of every sampler


class CrashError(BaseException):
    """Stands for kill -9: nothing catches it, nothing is tidied up."""


def crash_at(chunk: int) -> Any:
    def before(done: int) -> None:
        if done == chunk:
            raise CrashError

    return before


def config(sampler: str, **sections: Any) -> Any:
    return toy_config(search={"sampler": sampler, "trials": TRIALS, "seed": 3}, **sections)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """For each sampler the history of a search that nothing stopped."""
    histories: dict[str, Any] = {}

    def history(sampler: str) -> Any:
        if sampler not in histories:
            run = ToyRun(tmp_path_factory.mktemp(sampler), config(sampler))
            run.run(TRIALS)
            histories[sampler] = run.history()
        return histories[sampler]

    return history


@pytest.mark.parametrize("name", SAMPLERS.names())
class TestEverySampler:
    def test_proposals_lie_in_the_box_and_differ(self, name: str, uninterrupted: Any) -> None:
        points = [params for _, params, _, _ in uninterrupted(name)]
        assert all(0.0 <= value <= 1.2 for params in points for value in params.values())
        names = {d.name for d in toy_space(config(name)).dimensions("task_arithmetic")}
        assert all(set(params) == names for params in points)
        assert len({tuple(sorted(params.items())) for params in points}) == TRIALS

    @pytest.mark.parametrize("chunk", [0, 97, 203])
    def test_after_a_crash_it_proposes_what_it_would_have(
        self, name: str, chunk: int, uninterrupted: Any, tmp_path: Path
    ) -> None:
        first = ToyRun(tmp_path, config(name))
        first.evaluator.before_chunk = crash_at(chunk)
        with pytest.raises(CrashError):
            first.run(TRIALS)
        second = ToyRun(tmp_path, config(name))
        second.run(TRIALS)
        assert second.history() == uninterrupted(name)
        assert not set(first.evaluator.scored) & set(second.evaluator.scored)

    def test_after_a_crash_between_its_numbers_it_proposes_what_it_would_have(
        self, name: str, uninterrupted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = ToyRun(tmp_path, config(name))
        first.run(17)
        written = first.storage.set_trial_param
        calls = []

        def interrupted(*args: Any) -> None:
            if len(calls) == 3:
                raise CrashError
            calls.append(args)
            written(*args)

        monkeypatch.setattr(first.study._storage, "set_trial_param", interrupted)
        with pytest.raises(CrashError):
            first.run(TRIALS)
        assert len(first.study.get_trials()[-1].params) == 3
        second = ToyRun(tmp_path, config(name))
        second.run(TRIALS)
        assert second.history() == uninterrupted(name)

    def test_the_seed_decides(self, name: str, uninterrupted: Any, tmp_path: Path) -> None:
        other = ToyRun(
            tmp_path, config(name).model_copy(update={"search": config(name).search.model_copy(update={"seed": 4})})
        )
        other.run(14)
        sampled = slice(11, 14)
        assert [p for _, p, _, _ in other.history()[sampled]] != [p for _, p, _, _ in uninterrupted(name)[sampled]]

    def test_a_failed_trial_stops_nothing(self, name: str, tmp_path: Path) -> None:
        run = ToyRun(tmp_path, config(name))
        run.evaluator.broken = lambda recipe: recipe.digest.startswith(("0", "1", "2", "3"))
        run.run(TRIALS)
        states = [state for _, _, _, state in run.history()]
        assert len(states) == TRIALS
        assert 0 < states.count("FAIL") < TRIALS
        assert states.count("FAIL") + states.count("COMPLETE") == TRIALS
        reasons = [t.user_attrs.get("reason") for t in run.study.get_trials() if t.state.name == "FAIL"]
        assert set(reasons) == {"logits are NaN"}

    def test_it_works_in_one_dimension_and_in_many(self, name: str, tmp_path: Path) -> None:
        for index, space in enumerate(
            (
                {"layers": "uniform", "weight": 1.0, "lambda": [0.0, 2.0]},
                {"layers": "per_layer", "modules": ["attention", "mlp", "other"], "lambda": [0.5, 1.5]},
            )
        ):
            folder = tmp_path / str(index)
            folder.mkdir()
            wide = toy_config(search={"sampler": name, "trials": TRIALS, "warm_start": ["uniform"]})
            wide = wide.model_copy(update={"space": type(wide.space).model_validate(space)})
            run = ToyRun(folder, wide)
            run.run(14)
            assert [state for _, _, _, state in run.history()] == ["COMPLETE"] * 14


@pytest.mark.parametrize("name", ["cmaes", "gp", "tpe"])
def test_samplers_that_learn_end_up_proposing_better_than_random(name: str, tmp_path: Path) -> None:
    means = {}
    for each in (name, "random"):
        (tmp_path / each).mkdir()
        learning = toy_config(search={"sampler": each, "trials": 60, "warm_start": ["experts"]})
        run = ToyRun(tmp_path / each, learning, sizes={"search": 200, "select": 1, "report": 1})
        run.run(60)
        means[each] = sum(value or 0.0 for _, _, value, _ in run.history()[40:]) / 20
    assert means[name] > means["random"] + 0.01


def test_the_database_holds_no_pickle(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, config("cmaes"))
    run.run(TRIALS)
    of_study = run.storage.get_study_system_attrs(run.study._study_id)
    stored = [*of_study, *(key for t in run.study.get_trials() for key in t.system_attrs)]
    assert set(stored) <= {"fixed_params", "evomerge:proposal"}


def test_an_interruption_leaves_the_trial_to_go_on_with(uninterrupted: Any, tmp_path: Path) -> None:
    first = ToyRun(tmp_path, config("gp"))

    def ask(done: int) -> None:
        if done == 101:
            first.stop.set()

    first.evaluator.before_chunk = ask
    with pytest.raises(InterruptedRunError, match="everything scored so far is kept"):
        first.run(TRIALS)
    assert first.history()[-1][3] == "RUNNING"
    second = ToyRun(tmp_path, config("gp"))
    second.run(TRIALS)
    assert second.history() == uninterrupted("gp")
    assert not set(first.evaluator.scored) & set(second.evaluator.scored)


@pytest.mark.parametrize(
    ("space", "trials", "methods", "chosen"),
    [
        ({"layers": "uniform"}, 60, ["ties"], "gp"),
        ({"layers": "uniform"}, 1000, ["ties"], "cmaes"),
        ({"layers": "per_layer", "modules": ["attention", "mlp", "other"], "density": [0.1, 1]}, 60, ["ties"], "cmaes"),
        ({"layers": "uniform"}, 60, ["ties", "linear"], "tpe"),
    ],
)
def test_auto_chooses_by_dimensions_trials_and_choices(
    space: dict[str, Any], trials: int, methods: list[str], chosen: str
) -> None:
    made = toy_space(toy_config(space=space, merge={"method": methods}))
    name, why = choose_sampler("auto", made, trials)
    assert name == chosen
    assert why


def test_a_choice_of_methods_is_searched_by_tpe(tmp_path: Path) -> None:
    several = toy_config(
        merge={"method": ["task_arithmetic", "ties"]}, space={"density": [0.2, 1.0]}, search={"sampler": "auto"}
    )
    run = ToyRun(tmp_path, several)
    run.run(40)
    methods = [params["method"] for _, params, _, _ in run.history()]
    assert set(methods) == {"task_arithmetic", "ties"}
    for _, params, _, state in run.history():
        assert state == "COMPLETE"
        assert any(name.startswith("density") for name in params) == (params["method"] == "ties")


@pytest.mark.parametrize("name", ["cmaes", "qmc"])
def test_samplers_of_numbers_refuse_choices(name: str, tmp_path: Path) -> None:
    run = ToyRun(
        tmp_path, toy_config(merge={"method": ["task_arithmetic", "ties"]}, search={"sampler": name, "warm_start": []})
    )
    with pytest.raises(InputError, match="tpe takes choices"):
        run.run(1)


def test_an_unknown_sampler_is_named_with_its_neighbour() -> None:
    with pytest.raises(InputError, match="got 'cma'; did you mean 'cmaes'"):
        choose_sampler("cma", toy_space(toy_config()), 10)
