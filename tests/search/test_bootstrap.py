"""Intervals: they cover the truth about as often as they say, and pairing makes them narrow."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.search.bootstrap import difference_interval, objective_interval

TASKS = (TaskMetric("a", "acc", weight=3.0), TaskMetric("b", "ppl", higher_is_better=False))


def scores(a: object, b: object) -> Scores:
    rows = [("a", "acc", np.asarray(a)), ("b", "ppl", np.asarray(b))]
    return Scores(
        tuple(DocumentScore(t, f"{i:04d}", m, float(v)) for t, m, values in rows for i, v in enumerate(values))
    )


def test_the_value_is_the_signed_weighted_mean() -> None:
    found = objective_interval(scores([1, 0, 1, 1], [2.0, 4.0]), TASKS, "mean", 0)
    assert found.value == pytest.approx((3 * 0.75 - 3.0) / 4)
    assert found.low <= found.value <= found.high


def test_a_model_does_not_differ_from_itself() -> None:
    same = scores([1, 0, 1, 1], [2.0, 4.0])
    assert difference_interval(same, same, TASKS, "mean", 0) == (0.0, 0.0, 0.0)


def test_documents_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="same documents"):
        difference_interval(scores([1, 0], [1.0]), scores([1, 0, 1], [1.0]), TASKS, "mean", 0)


def test_pairing_narrows_the_interval() -> None:
    chance = np.random.default_rng(0)
    hard = chance.random(400)
    first, second = scores(hard < 0.6, [1.0]), scores(hard < 0.5, [1.0])
    shuffled = scores(chance.permutation(hard < 0.5), [1.0])
    paired = difference_interval(first, second, TASKS, "mean", 0)
    unpaired = difference_interval(first, shuffled, TASKS, "mean", 0)
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


@pytest.mark.exhaustive
def test_the_interval_covers_the_true_difference_19_times_in_20() -> None:
    chance = np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        first, second = chance.random(120) < 0.6, chance.random(120) < 0.5
        found = difference_interval(scores(first, [1.0]), scores(second, [1.0]), TASKS, "mean", 2)
        covered += found.low <= 0.75 * 0.1 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_worst_takes_the_lower_task_in_every_resample() -> None:
    tasks = (TaskMetric("a", "acc"), TaskMetric("b", "ppl"))
    found = objective_interval(scores([1, 1, 1, 1], [0.0, 1.0, 0.0, 1.0]), tasks, "worst", 0)
    assert found.value == 0.5
    assert found.high <= 1.0
    assert found.low < 0.5
