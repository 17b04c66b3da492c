"""The contract of every sampler; a new one is under these tests as soon as its file exists."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.errors import InputError
from evomerge.search.samplers.making import check_name, known, make_sampler
from evomerge.search.sampling import SAMPLERS, SamplerContext, choose_sampler, distributions
from evomerge.search.study import ORIGIN, TOLD
from evomerge.spaces import METHOD, Space
from tests.search.driver import Driver, box, points
from tests.search.toy import ToyRun, toy_config, toy_space

DEEP = {"layers": "per_layer", "modules": ["attention", "mlp", "other"], "density": [0.1, 1]}
TRIALS = 36  # past the warm starts and two generations of every sampler
GENERATIONS = ["cmaes", "niches", "nsga2", "nsga3"]
CURRICULUM = "auto"  # leaves gates to others
LEARNING = ["cmaes", "gp", "niches", "nsga2", "nsga3", "tpe"]


class CrashError(BaseException):
    """Stands for kill -9: nothing catches it, nothing is tidied up."""


def crash_at(chunk: int) -> Any:
    def before(done: int) -> None:
        if done == chunk:
            raise CrashError

    return before


def made(**space: Any) -> Space:
    config = toy_config()
    return toy_space(config.model_copy(update={"space": type(config.space).model_validate(space)}))


def gated() -> Space:
    return made(layers="stack", repeats=2, stack_block=1, weight=[0.0, 1.2])


def choosing() -> Space:
    return toy_space(toy_config(merge={"method": ["task_arithmetic", "ties"]}, space={"density": [0.2, 1.0]}))


def affordable(name: str, trials: int) -> int:
    """Fewer trials where a model is dear; enough for some proposals of the model."""
    return min(trials, 15) if name == "gp" else trials


def refuses(name: str, distributions: Any, objectives: int = 1) -> bool:
    try:
        make_sampler(name, SamplerContext(0, 0, distributions, objectives))
    except InputError:
        return True
    return False


@pytest.fixture(scope="module")
def uninterrupted() -> Any:
    """For each sampler the trials of a search that nothing stopped; every seventh failed."""
    histories: dict[str, Any] = {}

    def history(sampler: str) -> Any:
        if sampler not in histories:
            histories[sampler] = Driver(sampler).run(TRIALS)
        return histories[sampler]

    return history


@pytest.mark.parametrize("name", SAMPLERS.names())
class TestEverySampler:
    def test_proposals_are_whole_lie_in_the_box_and_differ(self, name: str, uninterrupted: Any) -> None:
        found = points(uninterrupted(name))
        assert all(0.0 <= value <= 1.2 for point in found for value in point.values())
        names = list(distributions(toy_space(toy_config())))
        assert all(list(point) == names for point in found)
        assert len({tuple(point.values()) for point in found}) == TRIALS

    def test_the_next_20_proposals_of_a_new_process_are_those_of_the_old_one(
        self, name: str, uninterrupted: Any
    ) -> None:
        whole = uninterrupted(name)
        resumed = Driver(name, history=whole[: TRIALS - 20]).run(TRIALS)
        assert points(resumed) == points(whole)

    def test_after_a_crash_it_proposes_what_it_would_have(self, name: str, tmp_path: Path) -> None:
        config = toy_config(search={"sampler": name, "trials": 13, "seed": 3, "warm_start": ["experts"]})
        sizes = {"search": 20, "select": 1, "report": 1}
        runs = []
        for folder, chunk in (("whole", -1), ("parts", 45)):
            (tmp_path / folder).mkdir()
            runs.append(ToyRun(tmp_path / folder, config, sizes=sizes))
            runs[-1].evaluator.before_chunk = crash_at(chunk)
        runs[0].run(13)
        with pytest.raises(CrashError):
            runs[1].run(13)
        again = ToyRun(tmp_path / "parts", config, sizes=sizes)
        again.run(13)
        assert again.history() == runs[0].history()
        assert not set(runs[1].evaluator.scored) & set(again.evaluator.scored)

    def test_the_seed_decides(self, name: str, uninterrupted: Any) -> None:
        whole = uninterrupted(name)
        assert Driver(name, history=whole[:20], seed=4).propose(20) != whole[20].params

    def test_trials_that_all_fail_stop_nothing(self, name: str) -> None:
        found = points(Driver(name, failing=1).run(20, starts=()))
        assert len({tuple(point.values()) for point in found}) == 20

    @pytest.mark.parametrize(
        ("dimensions", "space"),
        [
            (1, {"layers": "uniform", "weight": 1.0, "lambda": [0.0, 2.0]}),
            (26, {"layers": "per_layer", "modules": ["attention", "mlp", "other"]}),
        ],
    )
    def test_it_works_in_one_dimension_and_in_many(self, name: str, dimensions: int, space: dict[str, Any]) -> None:
        box = made(**space)
        bounds = {each.name: (each.low, each.high) for each in box.dimensions("task_arithmetic")}
        assert len(bounds) == dimensions
        found = points(Driver(name, box).run(affordable(name, 20)))
        assert len({tuple(point.values()) for point in found}) == len(found) >= 15
        assert all(low <= point[key] <= high for point in found for key, (low, high) in bounds.items())

    def test_gates_are_open_or_closed(self, name: str) -> None:
        if name == CURRICULUM:
            return
        space = gated()
        gates = [each.name for each in space.dimensions("task_arithmetic") if each.is_gate]
        assert len(gates) == 8
        found = points(Driver(name, space).run(affordable(name, 24)))
        assert all(point[gate] in (0, 1) and isinstance(point[gate], int) for point in found for gate in gates)
        assert {point[gate] for point in found[3:] for gate in gates} == {0, 1}
        for point in found:
            space.recipe(point)

    def test_of_a_choice_it_proposes_what_the_method_takes_or_refuses_it(self, name: str) -> None:
        space = choosing()
        if refuses(name, distributions(space)):
            assert name in ("cmaes", "qmc")
            return
        trials = affordable(name, 24)
        whole = Driver(name, space).run(trials)
        found = points(whole)
        assert {point[METHOD] for point in found} == {"task_arithmetic", "ties"}
        for point in found:
            assert set(point) == {METHOD, *(each.name for each in space.dimensions(point[METHOD]))}
            space.recipe(point)
        assert points(Driver(name, space, history=whole[: trials - 4]).run(trials)) == found

    @pytest.mark.parametrize(("objectives", "ceiling"), [(1, 0.5), (2, None), (2, 0.5)])
    def test_with_several_objectives_or_constraints_a_resumed_study_proposes_the_same(
        self, name: str, objectives: int, ceiling: float | None
    ) -> None:
        if objectives == 2 and refuses(name, box(4), 2):
            assert name in (CURRICULUM, "cmaes", "niches")
            return
        trials = affordable(name, 24)
        whole = Driver(name, objectives=objectives, ceiling=ceiling).run(trials)
        resumed = Driver(name, objectives=objectives, ceiling=ceiling, history=whole[: trials - 4]).run(trials)
        assert points(resumed) == points(whole)
        assert len({tuple(point.values()) for point in points(whole)}) == trials

    def test_dimensions_that_do_not_matter_at_a_point_are_taken_from_its_proposal(self, name: str) -> None:
        """Trials keep the numbers that matter as parameters, here the gates alone."""
        if name == CURRICULUM:
            return
        plain = Driver(name, gated())
        number = affordable(name, 20)
        whole = plain.run(number)
        driver = Driver(name, gated(), history=[_without_numbers(trial) for trial in whole])
        driver.scores = lambda trial: Driver.scores(plain, whole[trial.number])  # type: ignore[method-assign]
        assert driver.propose(number) == plain.propose(number)

    def test_a_slow_worker_holds_nothing_up(self, name: str, uninterrupted: Any) -> None:
        """Trial 12 still runs: the others are seen as they are, and it is not proposed again."""
        history = list(uninterrupted(name)[:34])
        slow = create_trial(
            state=TrialState.RUNNING,
            params=history[12].params,
            distributions=history[12].distributions,
            system_attrs=history[12].system_attrs,
        )
        driver = Driver(name, history=[*history[:12], slow, *history[13:]])
        found = driver.propose(34)
        assert found != slow.params
        if name in GENERATIONS:
            others = Driver(name, history=[*history[:12], *history[13:]])
            assert others.propose(34) == found


def _without_numbers(trial: FrozenTrial) -> FrozenTrial:
    other = copy.copy(trial)
    other.params = {key: value for key, value in trial.params.items() if "gate" in key}
    other.distributions = {key: trial.distributions[key] for key in other.params}
    return other


@pytest.mark.parametrize("name", GENERATIONS)
def test_generations_are_counted_in_the_order_of_telling(name: str, uninterrupted: Any) -> None:
    told = list(uninterrupted(name)[:34])
    places = [4, 1, 2, 3, 0, 33, *range(6, 33), 5]  # trial 5 was slow: it is the last one told
    by_number = [told[place] for place in places]
    for trial, place in zip(by_number, places, strict=True):
        trial.set_user_attr(TOLD, place)
    ours, theirs = Driver(name, history=by_number), Driver(name, history=told)
    assert [ours.propose(number) for number in range(34, 50)] == [theirs.propose(number) for number in range(34, 50)]


@pytest.mark.parametrize("name", LEARNING)
def test_samplers_that_learn_keep_a_constraint_more_and_more_often(name: str) -> None:
    trials = Driver(name, ceiling=0.45).run(30 if name == "gp" else 44)  # without it they would go to 0.75
    late = [trial for trial in trials[18:] if trial.state == TrialState.COMPLETE]
    kept = [trial for trial in late if trial.constraints["mean"] <= 0]
    assert len(kept) >= 0.3 * len(late)


@pytest.mark.parametrize("name", [name for name in LEARNING if name != "niches"])
def test_samplers_that_learn_end_up_proposing_better_than_random(name: str) -> None:
    trials = 28 if name == "gp" else 52

    def late(sampler: str) -> float:
        return sum(trial.value or 0.0 for trial in Driver(sampler, failing=0).run(trials)[-12:]) / 12

    assert late(name) > late("random") + 0.01


@pytest.mark.parametrize("name", ["gp", "nsga2", "nsga3", "tpe"])
def test_samplers_of_several_objectives_find_a_better_front_than_random(name: str) -> None:
    def front(sampler: str) -> float:
        trials = Driver(sampler, objectives=2).run(24 if name == "gp" else 60)[14:]
        return hypervolume([trial.values for trial in trials if trial.values])

    assert front(name) > front("random")


def hypervolume(values: list[list[float]], lowest: float = -0.3) -> float:
    """The area above `lowest` in both objectives that the points dominate."""
    area, reached = 0.0, lowest
    for first, second in sorted(values, reverse=True):
        if second > reached and first > lowest:
            area += (first - lowest) * (second - reached)
            reached = second
    return area


@pytest.mark.parametrize("name", ["cmaes", "niches"])
def test_samplers_that_rank_by_one_value_refuse_several(name: str) -> None:
    with pytest.raises(InputError, match=rf"search.sampler must be one of .* its 2 values, but got '{name}'"):
        make_sampler(name, SamplerContext(0, 0, box(2), objectives=2))


@pytest.mark.parametrize("name", ["cmaes", "qmc"])
def test_samplers_of_numbers_refuse_choices(name: str) -> None:
    with pytest.raises(InputError, match="'method' is a choice; tpe, nsga2, nsga3 and niches take choices"):
        make_sampler(name, SamplerContext(0, 0, distributions(choosing())))


def test_a_gate_of_cmaes_counts_by_its_half_of_the_axis() -> None:
    from evomerge.search.box import UnitCube

    cube = UnitCube("cmaes", {"gate": IntDistribution(0, 1), "x": FloatDistribution(1.0, 3.0)})
    assert cube.coordinates({"gate": 1, "x": 2.0}).tolist() == [0.75, 0.5]
    assert cube.coordinates({"gate": 0, "x": 3.0}).tolist() == [0.25, 1.0]
    assert cube.point(cube.coordinates({"gate": 1, "x": 2.0})) == {"gate": 1, "x": 2.0}
    with pytest.raises(InputError, match="'more' is a choice"):
        UnitCube("cmaes", {"more": IntDistribution(0, 2)})


def test_warm_starts_are_no_generation_of_cmaes_and_its_first_mean_is_the_best_of_them() -> None:
    driver = Driver("cmaes", failing=0, options={"sigma": 1e-6})
    assert all(ORIGIN in trial.user_attrs for trial in driver.run(3))
    assert driver.propose(3) == pytest.approx(dict.fromkeys(driver.distributions, 0.85 * 1.2), abs=1e-4)


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("cmaes", {"populatoin": 8}, r"a key of search.sampler_options .*'populatoin'; did you mean 'population'"),
            ("cmaes", {"population": "8"}, r"search.sampler_options.population: .* valid integer.* but got '8'"),
            ("cmaes", {"population": 2}, r"population: .* greater than or equal to 4, but got 2"),
            ("cmaes", {"sigma": 0}, r"sigma: .* greater than 0, but got 0"),
            ("gp", {"startup": True}, r"startup: .* but got True"),
            ("niches", {"alpha": -1.0}, r"alpha: .* greater than or equal to 0, but got -1.0"),
            ("qmc", {"seed": 1}, r"search.sampler_options must be empty for a sampler without options, but got 'seed'"),
        ],
    )
    def test_a_wrong_one_is_named_with_its_rule_and_value(
        self, name: str, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            make_sampler(name, SamplerContext(0, 0, box(2), options=options))

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("cmaes", {"population": 5}),
            ("cmaes", {"sigma": 0.5}),
            ("gp", {"startup": 4}),
            ("niches", {"capacity": 4}),
            ("niches", {"alpha": 0}),
            ("nsga2", {"population": 6}),
            ("nsga3", {"population": 6}),
            ("tpe", {"startup": 4}),
            ("tpe", {"candidates": 3}),
        ],
    )
    def test_a_right_one_changes_what_is_proposed(self, name: str, options: dict[str, Any], uninterrupted: Any) -> None:
        history = uninterrupted(name)[: 34 if "alpha" in options or "candidates" in options else 9]
        changed, plain = Driver(name, history=history, options=options), Driver(name, history=history)
        assert [changed.propose(number) for number in (40, 41, 42)] != [plain.propose(n) for n in (40, 41, 42)]


def test_names_are_known_by_their_form() -> None:
    assert known("gp")
    assert known("package.module:Class")
    assert not known("auto-matic")
    with pytest.raises(InputError, match="got 'cma'; did you mean 'cmaes'"):
        check_name("cma")
    with pytest.raises(InputError, match=r"must be package.module:Class, but got 'optuna:'"):
        check_name("optuna:")


def test_an_unknown_sampler_is_named_with_its_neighbour() -> None:
    with pytest.raises(InputError, match="got 'cma'; did you mean 'cmaes'"):
        choose_sampler("cma", toy_space(toy_config()), 10)
