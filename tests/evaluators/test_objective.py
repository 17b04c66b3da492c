from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.evaluators.objective import combine, objective

ACC = TaskMetric("quiz", "acc", weight=3.0)
LOSS = TaskMetric("text", "loss", higher_is_better=False)


def scores(acc: float, loss: float) -> Scores:
    return Scores((DocumentScore("quiz", "a", "acc", acc), DocumentScore("text", "a", "loss", loss)))


def test_the_mean_is_weighted_and_a_loss_counts_against() -> None:
    assert objective(scores(0.5, 2.0), [ACC, LOSS]) == pytest.approx((3 * 0.5 - 2.0) / 4)


def test_a_lower_loss_is_better() -> None:
    assert objective(scores(0.5, 1.0), [ACC, LOSS]) > objective(scores(0.5, 2.0), [ACC, LOSS])
    assert objective(scores(0.6, 2.0), [ACC, LOSS]) > objective(scores(0.5, 2.0), [ACC, LOSS])


def test_the_worst_task_counts_alone_and_without_its_weight() -> None:
    assert objective(scores(0.5, 2.0), [ACC, LOSS], "worst") == -2.0
    assert objective(scores(-3.0, 2.0), [ACC, LOSS], "worst") == -3.0


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_an_unscored_task_leaves_no_objective(kind: str) -> None:
    assert math.isnan(objective(Scores(), [ACC], kind))  # type: ignore[arg-type]
    assert math.isnan(objective(scores(math.nan, 1.0), [ACC, LOSS], kind))  # type: ignore[arg-type]


def test_many_objectives_at_once_are_those_of_each() -> None:
    means = [np.array([0.1, 0.9]), np.array([2.0, -1.0])]
    for kind in ("mean", "worst"):
        together = combine(means, [ACC, LOSS], kind)
        alone = [objective(scores(means[0][place], means[1][place]), [ACC, LOSS], kind) for place in range(2)]
        assert together.tolist() == pytest.approx(alone)


def test_a_task_without_weight_has_no_part() -> None:
    watched = replace(LOSS, weight=0.0)
    for kind in ("mean", "worst", "pareto"):
        assert objective(scores(0.5, math.nan), [ACC, watched], kind) == 0.5  # type: ignore[arg-type]
