"""What a candidate that was stopped is told to be worth: right on average, and nearer than what it replaces."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric
from evomerge.evaluators.aggregation import Aggregation
from evomerge.evaluators.config import Racing
from evomerge.evaluators.splits import rungs
from evomerge.search.estimate import Estimate, estimate, estimates
from evomerge.search.racing import Race

TASKS = (TaskMetric("left", "acc"), TaskMetric("right", "acc"))
SIZE = 120
DOCUMENTS = [Document(task.task, f"{place:04d}", place, "search") for task in TASKS for place in range(SIZE)]
Floats = NDArray[np.float64]


def scores(values: Floats, seen: int | None = None, tasks: Sequence[TaskMetric] = TASKS, item: Any = None) -> Scores:
    """Scores [T, N] as `Scores`, the first `seen` documents of each task."""
    return Scores(
        tuple(
            DocumentScore(task.task, f"{place:04d}", task.label, float(value), item(value) if item else None)
            for task, row in zip(tasks, values, strict=True)
            for place, value in enumerate(row[:seen])
        )
    )


def candidates(generator: np.random.Generator, count: int) -> Floats:
    """0/1 scores [count, T, N] of candidates of varied ability on documents of varied difficulty."""
    ability = generator.normal(0.3, 0.7, (count, 2, 1)) + generator.normal(0, 0.4, (count, 1, 1))
    difficulty, slope = generator.normal(0, 1.5, (2, SIZE)), generator.uniform(0.5, 2.0, (2, SIZE))
    return (generator.random((count, 2, SIZE)) < 1 / (1 + np.exp(slope * (difficulty - ability)))).astype(np.float64)


class Told(NamedTuple):
    """Of a stopped candidate: what it truly scores, what is told, its standard error, and what it had so far."""

    truth: float
    told: float
    stderr: float
    partial: float


def raced(seed: int, count: int = 60) -> list[Told]:
    """The candidates that a race stops."""
    values = candidates(np.random.default_rng(seed), count)
    plan = rungs({task.task: [d for d in DOCUMENTS if d.task == task.task] for task in TASKS}, 64, 8)
    seen = np.cumsum([len(rung[0]) for rung in plan])
    race = Race(TASKS, "mean", Racing(error=0.3), plan)
    full, best, found = [scores(each) for each in values[:8]], int(np.argmax(values[:8].mean(axis=(1, 2)))), []
    for row in values[8:]:
        parts = ((look, int(end), scores(row, int(end))) for look, end in enumerate(seen))
        stopped = next(((end, part) for look, end, part in parts if race.verdict(part, full[best], look).stop), None)
        if stopped is None:
            full.append(scores(row))
            best = best if row.mean() <= full_mean(full[best]) else len(full) - 1
            continue
        end, part = stopped
        told = estimates(TASKS, full, part, DOCUMENTS)
        stderr = math.hypot(*(each.stderr for each in told)) / 2
        found.append(Told(row.mean(), np.mean([each.value for each in told]), stderr, row[:, :end].mean()))
    return found


def full_mean(whole: Scores) -> float:
    return float(np.mean([whole.task(task).mean for task in TASKS]))


@pytest.fixture(scope="module")
def stopped() -> Floats:
    """(truth, told, stderr, partial) of the stopped candidates of 12 runs."""
    return np.array([each for seed in range(12) for each in raced(seed)])


def test_what_stopped_candidates_are_told_is_unbiased_where_their_partial_means_are_not(stopped: Floats) -> None:
    truth, told, _, partial = stopped.T
    assert len(stopped) > 200

    def z(estimated: Floats) -> float:
        errors = estimated - truth
        return float(errors.mean() / (errors.std() / math.sqrt(len(errors))))

    assert abs(z(told)) < 3
    assert z(partial) < -3


def test_it_is_nearer_than_the_partial_mean_and_its_standard_error_says_how_near(stopped: Floats) -> None:
    truth, told, stderr, partial = stopped.T
    assert np.sqrt(np.mean((told - truth) ** 2)) < 0.8 * np.sqrt(np.mean((partial - truth) ** 2))
    assert np.corrcoef(told, truth)[0, 1] > np.corrcoef(partial, truth)[0, 1]
    assert 0.7 < float(np.sqrt(np.mean(((told - truth) / stderr) ** 2))) < 1.3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_with_everything_seen_it_is_exact(seed: int, count: int) -> None:
    values = candidates(np.random.default_rng(seed), count + 1)
    full = [scores(each) for each in values[1:]]
    for found, row in zip(estimates(TASKS, full, scores(values[0]), DOCUMENTS), values[0], strict=True):
        assert found == pytest.approx(Estimate(row.mean(), 0.0))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_more_documents_leave_a_smaller_error(seed: int, count: int) -> None:
    values = candidates(np.random.default_rng(seed), count + 1)
    full = [scores(each) for each in values[1:]]
    errors = [
        [each.stderr for each in estimates(TASKS, full, scores(values[0], seen), DOCUMENTS)]
        for seen in (0, 8, 24, 80, 119)
    ]
    assert (np.diff(np.array(errors), axis=0) < 0).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50))
def test_units_and_orders_do_not_matter(seed: int, unit: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 1, (9, 2, SIZE)) + generator.normal(0, 1, (9, 2, 1))
    full = [scores(each) for each in values[1:]]
    plain = estimates(TASKS, full, scores(values[0], 24), DOCUMENTS)
    moved = [scores(unit * each + shift) for each in values[1:]]
    for before, after in zip(
        plain, estimates(TASKS, moved, scores(unit * values[0] + shift, 24), DOCUMENTS[::-1]), strict=True
    ):
        assert after.value == pytest.approx(unit * before.value + shift, rel=1e-6, abs=1e-6)
        assert after.stderr == pytest.approx(unit * before.stderr, rel=1e-6)
    swapped = estimates(TASKS[::-1], full, scores(values[0], 24), DOCUMENTS)
    assert np.array(swapped[::-1]) == pytest.approx(np.array(plain))


def test_a_task_tells_of_another() -> None:
    generator = np.random.default_rng(0)
    level = generator.normal(0, 1, 30)
    values = level[:, None, None] + generator.normal(0, 0.5, (30, 2, SIZE))
    full = [scores(each) for each in values[:20]]
    together, apart = [], []
    for row in values[20:]:
        seen = Scores(tuple(each for each in scores(row).documents if each.task == "left"))
        together.append(estimates(TASKS, full, seen, DOCUMENTS)[1].value - row[1].mean())
        apart.append(estimate(TASKS[1], full, seen, DOCUMENTS).value - row[1].mean())
    assert np.std(together) < 0.5 * np.std(apart)


def test_a_ratio_is_the_paired_difference_of_the_numbers() -> None:
    generator = np.random.default_rng(2)
    task = TaskMetric("left", "perplexity", higher_is_better=False, aggregation=Aggregation("ratio", link=np.exp))
    documents = [document for document in DOCUMENTS if document.task == "left"]
    values = generator.normal(2.0, 0.3, (1, SIZE)) + generator.normal(0, 0.02, (4, 1, SIZE))
    values[0] += 0.1

    def item(value: float) -> str:
        return json.dumps([30 * value, 30])

    full = [scores(each, tasks=[task], item=item) for each in values[1:]]
    found = estimate(task, full, scores(values[0], 24, [task], item), documents)
    assert found.value == pytest.approx(np.exp(values[0].mean()), rel=0.01)
    assert 0 < found.stderr < 0.1 * found.value
    exact = estimate(task, full, scores(values[0], None, [task], item), documents)
    assert exact == pytest.approx((np.exp(values[0].mean()), 0.0))
    assert estimate(task, full, Scores(), documents).stderr == math.inf


def test_documents_without_a_value_do_not_count() -> None:
    values = candidates(np.random.default_rng(3), 9)
    full = [scores(each) for each in values[1:]]
    holed = values[0].copy()
    holed[:, ::10] = math.nan
    found = estimates(TASKS, full, scores(holed), DOCUMENTS)
    assert np.array(found) == pytest.approx(np.array([(np.nanmean(row), 0.0) for row in holed]))
    values[1, :, 5] = math.nan
    again = estimates(TASKS, [scores(each) for each in values[1:]], scores(values[0], 24), DOCUMENTS)
    assert all(math.isfinite(each.value) and each.stderr > 0 for each in again)


def test_what_cannot_be_estimated_is_an_error() -> None:
    values = candidates(np.random.default_rng(3), 2)
    with pytest.raises(ValueError, match="must rest on a fully scored candidate"):
        estimates(TASKS, [], scores(values[0]), DOCUMENTS)
    with pytest.raises(ValueError, match="must have all documents of 'left', but one has not"):
        estimates(TASKS, [scores(values[1], 20)], scores(values[0], 8), DOCUMENTS)
    with pytest.raises(ValueError, match="there are none of task 'right'"):
        estimates(TASKS, [scores(values[1])], scores(values[0], 8), DOCUMENTS[:SIZE])
