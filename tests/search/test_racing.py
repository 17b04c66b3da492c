"""What a race promises: its error, whom it stops, and what it does not look at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric
from evomerge.evaluators.aggregation import Aggregation
from evomerge.evaluators.config import Racing
from evomerge.evaluators.objective import Objective
from evomerge.evaluators.splits import rungs
from evomerge.search.racing import Race, Verdict

LEFT, RIGHT = TaskMetric("left", "acc"), TaskMetric("right", "acc")
PERPLEXITY = Aggregation("ratio", link=np.exp)
CORPUS = Aggregation("share", corpus=lambda items: sum(items) / len(items))


def documents(task: str, count: int) -> list[Document]:
    return [Document(task, f"{place:04d}", place, "search") for place in range(count)]


def race(
    tasks: Sequence[TaskMetric], count: int = 120, kind: Objective = "mean", **racing: float
) -> tuple[Race, list[int]]:
    """A race of tasks with `count` documents each, and how many of each are seen at each look."""
    plan = rungs({task.task: documents(task.task, count) for task in tasks}, 64, 8)
    seen = np.cumsum([len(rung[0]) for rung in plan])
    return Race(tasks, kind, Racing(**racing), plan), [int(each) for each in seen]


def scores(values: Mapping[TaskMetric, Sequence[float]], seen: int | None = None, items: Any = None) -> Scores:
    """Scores of the first `seen` documents, in the order of their keys."""
    return Scores(
        tuple(
            DocumentScore(task.task, f"{place:04d}", task.label, float(value), items(place, value) if items else None)
            for task, of_task in values.items()
            for place, value in enumerate(of_task[:seen])
        )
    )


def coins(generator: np.random.Generator, rate: float, count: int = 120) -> list[float]:
    return [float(each) for each in generator.random(count) < rate]


def first_stop(
    judge: tuple[Race, list[int]],
    candidate: Mapping[TaskMetric, Sequence[float]],
    incumbent: Mapping[TaskMetric, Sequence[float]],
    items: Any = None,
    peers: Sequence[Mapping[TaskMetric, Sequence[float]]] = (),
) -> int | None:
    """The look at which the candidate is stopped."""
    raced, seen = judge
    whole, others = scores(incumbent, items=items), [scores(each) for each in peers]
    verdicts = (raced.verdict(scores(candidate, end, items), whole, look, others) for look, end in enumerate(seen))
    return next((verdict.look for verdict in verdicts if verdict.stop), None)


def equal_pair(generator: np.random.Generator, rate: float, changed: float, count: int) -> tuple[Any, Any]:
    """0/1 scores of two models with equal numbers of solved documents, a share `changed` of them drawn anew."""
    one = generator.random(count) < rate
    other = np.where(generator.random(count) < changed, generator.random(count) < rate, one)
    while (surplus := int(other.sum()) - int(one.sum())) != 0:
        differ = np.flatnonzero((other != one) & (other == (surplus > 0)))
        other[generator.choice(differ)] ^= True
    return one.astype(float), other.astype(float)


@pytest.mark.parametrize(("rate", "changed", "peers"), [(0.5, 1.0, 0), (0.5, 1.0, 5), (0.9, 0.5, 0), (0.05, 1.0, 2)])
@pytest.mark.parametrize("count", [24, 160])
def test_equal_candidates_are_stopped_no_more_often_than_stated(
    rate: float, changed: float, peers: int, count: int
) -> None:
    generator = np.random.default_rng(7)
    judge, stopped, repeats = race([LEFT, RIGHT], count, error=0.1), 0, 400
    for _ in range(repeats):
        pairs = {task: equal_pair(generator, rate, changed, count) for task in (LEFT, RIGHT)}
        incumbent, candidate = ({task: pair[side] for task, pair in pairs.items()} for side in (0, 1))
        others = [
            {
                task: np.where(generator.random(count) < 0.5, coins(generator, 0.5, count), of)
                for task, of in incumbent.items()
            }
            for _ in range(peers)
        ]
        stopped += first_stop(judge, candidate, incumbent, peers=others) is not None
    assert stopped / repeats <= 0.1 + 3 * math.sqrt(0.09 / repeats)


def test_peers_make_verdicts_cheaper_and_differences_the_same_in_the_end() -> None:
    generator = np.random.default_rng(9)
    difficulty = generator.random((2, 120))
    raced, seen = race([LEFT, RIGHT])

    def model(quality: float) -> dict[TaskMetric, Any]:
        solved = generator.random((2, 120)) < np.clip(0.5 + 3 * (quality - difficulty), 0, 1)
        return dict(zip((LEFT, RIGHT), solved.astype(float), strict=True))

    alone, helped = [], []
    for _ in range(30):
        incumbent, candidate, peers = model(0.7), model(0.55), [model(0.65) for _ in range(6)]
        for stops, others in ((alone, []), (helped, peers)):
            look = first_stop((raced, seen), candidate, incumbent, peers=others)
            stops.append(seen[-1] if look is None else seen[look])
        last = [raced.verdict(scores(candidate), scores(incumbent), 6, list(map(scores, o))) for o in ([], peers)]
        assert last[0].difference == pytest.approx(last[1].difference)
    assert np.mean(helped) < 0.85 * np.mean(alone)


def test_clearly_worse_candidates_are_stopped_early() -> None:
    generator = np.random.default_rng(3)
    judge, looks = race([LEFT, RIGHT]), []
    for _ in range(50):
        incumbent = {task: coins(generator, 0.8) for task in (LEFT, RIGHT)}
        candidate = {task: coins(generator, 0.3) for task in (LEFT, RIGHT)}
        looks.append(first_stop(judge, candidate, incumbent))
    assert None not in looks
    assert np.mean([judge[1][look] for look in looks if look is not None]) < 30


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_twin_is_never_stopped_and_neither_is_who_solves_more(seed: int, rate: float) -> None:
    generator = np.random.default_rng(seed)
    incumbent = {task: coins(generator, rate) for task in (LEFT, RIGHT)}
    better = {
        task: [max(pair) for pair in zip(of, coins(generator, 0.2), strict=True)] for task, of in incumbent.items()
    }
    for kind in ("mean", "worst"):
        assert first_stop(race([LEFT, RIGHT], kind=kind), incumbent, incumbent) is None
        assert first_stop(race([LEFT, RIGHT], kind=kind), better, incumbent) is None


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["mean", "worst"]))
def test_neither_the_order_of_tasks_nor_the_sign_of_a_metric_moves_a_verdict(seed: int, kind: Objective) -> None:
    generator = np.random.default_rng(seed)
    left, right = TaskMetric("left", "acc", weight=2.0), TaskMetric("right", "acc")
    loss = TaskMetric("right", "loss", higher_is_better=False)
    incumbent = {task: generator.normal(0.3, 1, 120) for task in (left, right)}
    candidate = {task: generator.normal(0, 1, 120) for task in (left, right)}
    raced, seen = race([left, right], kind=kind)
    others = [(race([right, left], kind=kind)[0], right, 1.0), (race([left, loss], kind=kind)[0], loss, -1.0)]
    for look, end in enumerate(seen):
        verdict = raced.verdict(scores(candidate, end), scores(incumbent), look)
        for other, task, sign in others:
            pair = [{left: of[left], task: sign * np.array(of[right])} for of in (candidate, incumbent)]
            same = other.verdict(scores(pair[0], end), scores(pair[1]), look)
            assert (same.stop, same.p, same.difference) == pytest.approx((verdict.stop, verdict.p, verdict.difference))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0, 3))
def test_a_uniformly_worse_candidate_is_stopped_no_later(seed: int, loss: float) -> None:
    generator = np.random.default_rng(seed)
    incumbent = {task: generator.normal(0.4, 1, 120) for task in (LEFT, RIGHT)}
    candidate = {task: generator.normal(0, 1, 120) for task in (LEFT, RIGHT)}
    worse = {task: of_task - loss for task, of_task in candidate.items()}
    judge = race([LEFT, RIGHT])
    stop = first_stop(judge, candidate, incumbent)
    if stop is not None:
        lower = first_stop(judge, worse, incumbent)
        assert lower is not None
        assert lower <= stop


def test_worst_looks_at_the_worst_task_alone() -> None:
    generator = np.random.default_rng(5)
    incumbent = {LEFT: coins(generator, 0.9), RIGHT: coins(generator, 0.5)}
    fails_one = {LEFT: [1.0] * 120, RIGHT: coins(generator, 0.05)}
    balanced = {LEFT: coins(generator, 0.7), RIGHT: coins(generator, 0.7)}
    judge = race([LEFT, RIGHT], kind="worst")
    assert first_stop(judge, fails_one, incumbent) is not None
    assert first_stop(judge, balanced, incumbent) is None
    seen = judge[1][3]
    verdict = judge[0].verdict(scores(fails_one, seen), scores(incumbent), 3)
    values = {task: np.array(of_task) for task, of_task in incumbent.items()}
    estimate = values[RIGHT].mean() + np.mean(np.array(fails_one[RIGHT])[:seen] - values[RIGHT][:seen])
    assert verdict.difference == pytest.approx(estimate - values[RIGHT].mean())


def test_only_who_is_worse_in_every_task_is_dominated() -> None:
    generator = np.random.default_rng(5)
    front = [
        scores({LEFT: coins(generator, 0.9), RIGHT: coins(generator, 0.6)}),
        scores({LEFT: coins(generator, 0.6), RIGHT: coins(generator, 0.9)}),
    ]
    raced, seen = race([LEFT, RIGHT], kind="pareto")
    dominated = {LEFT: coins(generator, 0.3), RIGHT: coins(generator, 0.3)}
    middle = {LEFT: coins(generator, 0.8), RIGHT: coins(generator, 0.8)}
    one_sided = {LEFT: coins(generator, 0.99), RIGHT: coins(generator, 0.01)}

    def stops(candidate: Mapping[TaskMetric, Sequence[float]]) -> list[Verdict]:
        return [raced.dominated(scores(candidate, end), front, look) for look, end in enumerate(seen)]

    assert any(verdict.stop for verdict in stops(dominated))
    assert all(verdict.difference < 0 for verdict in stops(dominated)[3:])
    assert not any(verdict.stop for verdict in [*stops(middle), *stops(one_sided)])
    alone = raced.dominated(scores(dominated, seen[0]), front[:1], 0)
    assert stops(dominated)[0].level < alone.level


def test_tasks_of_weight_zero_do_not_count() -> None:
    generator = np.random.default_rng(1)
    watched = TaskMetric("watched", "acc", weight=0.0)
    incumbent = {LEFT: coins(generator, 0.5), watched: [1.0] * 120}
    candidate = {LEFT: incumbent[LEFT], watched: [0.0] * 120}
    for kind in ("mean", "worst"):
        assert first_stop(race([LEFT, watched], kind=kind), candidate, incumbent) is None


def test_a_ratio_is_compared_as_the_number_it_is() -> None:
    generator = np.random.default_rng(2)
    task = TaskMetric("text", "perplexity", higher_is_better=False, aggregation=PERPLEXITY)
    lengths = generator.integers(20, 60, 120)

    def losses(mean: float) -> list[float]:
        return [float(each) for each in generator.normal(mean, 0.3, 120)]

    def item(place: int, value: float) -> str:
        return json.dumps([value * int(lengths[place]), int(lengths[place])])

    incumbent, worse, better = {task: losses(2.0)}, {task: losses(2.4)}, {task: losses(1.9)}
    judge = race([task])
    assert first_stop(judge, worse, incumbent, item) is not None
    assert first_stop(judge, better, incumbent, item) is None
    verdict = judge[0].verdict(scores(worse, 48, item), scores(incumbent, items=item), 3)
    ours, theirs = (float(np.exp(np.average(of[task][:48], weights=lengths[:48]))) for of in (worse, incumbent))
    assert verdict.difference == pytest.approx(theirs - ours, rel=0.02)


def test_a_function_of_all_documents_is_raced_as_the_mean_that_it_equals() -> None:
    generator = np.random.default_rng(4)

    def item(place: int, value: float) -> str:
        return json.dumps(value)

    plain, corpus = LEFT, TaskMetric("left", "acc", aggregation=CORPUS)
    incumbent, candidate = coins(generator, 0.8), coins(generator, 0.5)
    seen = 24  # one group of documents each
    expected = race([plain])[0].verdict(scores({plain: candidate}, seen), scores({plain: incumbent}), 2)
    found = race([corpus])[0].verdict(
        scores({corpus: candidate}, seen, item), scores({corpus: incumbent}, items=item), 2
    )
    assert (found.difference, found.p) == pytest.approx((expected.difference, expected.p))
    late = race([corpus])[0].verdict(scores({corpus: candidate}, 80, item), scores({corpus: incumbent}, items=item), 4)
    assert late.difference == pytest.approx(np.mean(candidate[:80]) - np.mean(incumbent[:80]), abs=0.01)
    assert late.stop


def test_with_everything_seen_nobody_is_stopped_and_the_difference_is_exact() -> None:
    raced, seen = race([LEFT])
    verdict = raced.verdict(scores({LEFT: [0.0] * 120}), scores({LEFT: [1.0] * 120}), len(seen) - 1)
    assert not verdict.stop
    assert verdict.difference == -1.0


def test_documents_without_a_value_do_not_count() -> None:
    generator = np.random.default_rng(8)
    incumbent, candidate = coins(generator, 0.8), coins(generator, 0.5)
    holes = [math.nan if place % 5 == 0 else value for place, value in enumerate(candidate)]
    kept = [place for place in range(48) if place % 5]
    verdict = race([LEFT])[0].verdict(scores({LEFT: holes}, 48), scores({LEFT: incumbent}), 3)
    assert verdict.difference == pytest.approx(np.mean([candidate[p] - incumbent[p] for p in kept]))
    assert not race([LEFT])[0].verdict(scores({LEFT: [math.nan] * 8}), scores({LEFT: incumbent}), 0).stop


def test_an_incumbent_without_the_documents_is_an_error() -> None:
    with pytest.raises(ValueError, match="the incumbent must be scored on all documents of 'left'"):
        race([LEFT])[0].verdict(scores({LEFT: [1.0] * 16}), scores({LEFT: [1.0] * 8}), 1)


def test_peers_on_other_documents_are_an_error() -> None:
    whole, part = scores({LEFT: [1.0] * 120}), scores({LEFT: [1.0] * 60})
    with pytest.raises(ValueError, match="peers must have the incumbent's documents of 'left'"):
        race([LEFT])[0].verdict(scores({LEFT: [1.0] * 8}), whole, 0, [part])


def test_a_margin_stops_those_whose_gain_is_too_small() -> None:
    generator = np.random.default_rng(6)
    incumbent = {LEFT: generator.normal(0, 1, 120)}
    candidate = {LEFT: incumbent[LEFT] + generator.normal(0.02, 0.1, 120)}
    assert first_stop(race([LEFT]), candidate, incumbent) is None
    assert first_stop(race([LEFT], margin=1.0), candidate, incumbent) is not None
