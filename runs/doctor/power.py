"""Which gains so many documents can show, and how much of the winner's score will be luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from evomerge.evaluators.aggregation import MEAN
from evomerge.evaluators.types import TaskMetric

DISAGREE = 0.3
"""Share of documents on which a candidate and the best source differ in a right-or-wrong metric, before any is scored.
Where a task is solved or hopeless it is lower, and gains are seen sooner."""

SEEN = 1.959964 + 0.841621
"""Standard errors that a gain has to be, to be significant at 5 % (two-sided) in 80 % of searches."""

SPREAD = 0.05
"""Standard deviation of the candidates' true scores, as a simulation of searches assumes it."""

RATE = 0.45
"""What share of documents a candidate gets right, likewise."""


class TaskPower(NamedTuple):
    """What one task's documents show.

    Attributes:
        documents: of `report`.
        stderr: of the difference between two models on them.
        gain: the least one that is seen in 80 % of searches.
    """

    documents: int
    stderr: float
    gain: float


class Power(NamedTuple):
    """What a search's documents show of its objective.

    Attributes:
        tasks: by name.
        stderr: of the difference of two models' objectives on `report`.
        gain: the least that is seen in 80 % of searches.
        luck: how much higher the winner's score on `search` is expected to be than its true one.
        loss: how much worse than the best candidate the winner is expected to be.
        needed: documents of `report`, over all tasks alike, that would show a gain of 2 points.
    """

    tasks: dict[str, TaskPower]
    stderr: float
    gain: float
    luck: float
    loss: float
    needed: int


def power_of(
    metrics: tuple[TaskMetric, ...], report: Mapping[str, int], search: Mapping[str, int], trials: int
) -> Power:
    """The power of a search whose objective is the weighted mean of means of right-or-wrong documents.

    A difference d of two models on a document is -1, 0 or 1, and 0 on all but `DISAGREE` of them; without a gain its
    variance is that share. Luck and loss are those of the best of N ~ N(0, s^2) true scores seen with noise t:
    E[max] t^2 / sqrt(s^2 + t^2) and E[max] (s - s^2 / sqrt(s^2 + t^2)).

    Args:
        metrics: what is measured; those of weight 0 do not count.
        report: documents of each task there.
        search: likewise.
        trials: candidates.
    """
    weights = _weights(metrics)
    tasks = {}
    for task in weights:
        stderr = math.sqrt(DISAGREE / report[task]) if report[task] else math.inf
        tasks[task] = TaskPower(report[task], stderr, SEEN * stderr)
    stderr = math.sqrt(sum((weights[task] * each.stderr) ** 2 for task, each in tasks.items()))
    noise = math.sqrt(
        sum(share**2 * RATE * (1 - RATE) / search[task] for task, share in weights.items() if search[task])
    )
    total = math.hypot(noise, SPREAD)
    highest = expected_maximum(trials)
    needed = math.ceil(DISAGREE * sum(share**2 for share in weights.values()) * len(weights) * (SEEN / 0.02) ** 2)
    return Power(
        tasks, stderr, SEEN * stderr, highest * noise**2 / total, highest * (SPREAD - SPREAD**2 / total), needed
    )


def measurable(metrics: tuple[TaskMetric, ...]) -> tuple[TaskMetric, ...]:
    """The metrics of the objective that are means over documents; of others nothing is said."""
    return tuple(metric for metric in metrics if metric.weight > 0 and metric.aggregation is MEAN)


def expected_maximum(count: int) -> float:
    """About E[max] of `count` standard normal numbers.

    Blom, Statistical Estimates and Transformed Beta-Variables (1958): the quantile at (n - .375) / (n + .25); right
    to .02 for any count.
    """
    from scipy.special import ndtri

    return float(ndtri((count - 0.375) / (count + 0.25))) if count > 1 else 0.0


def _weights(metrics: tuple[TaskMetric, ...]) -> dict[str, float]:
    total = sum(metric.weight for metric in metrics)
    weights: dict[str, float] = {}
    for metric in metrics:
        weights[metric.task] = weights.get(metric.task, 0.0) + metric.weight / total
    return weights
