"""Bootstrap intervals for the objective of a model and for the difference between two models on the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluators import Scores, TaskMetric
from evomerge.evaluators.aggregation import CORPUS_RESAMPLES
from evomerge.evaluators.objective import Objective, combine, objective

RESAMPLES = 10_000
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and the ends of its percentile interval."""

    value: float
    low: float
    high: float


def objective_interval(scores: Scores, tasks: Sequence[TaskMetric], kind: Objective, seed: int) -> Interval:
    """The objective with its 95 % interval over resampled documents."""
    draws = _draws(scores, tasks, seed)
    sampled = _resampled(scores, tasks, kind, draws)
    return _interval(objective(scores, tasks, kind), sampled)


def difference_interval(
    model: Scores, other: Scores, tasks: Sequence[TaskMetric], kind: Objective, seed: int
) -> Interval:
    """How much higher the objective of `model` is than that of `other`, with its paired 95 % interval.

    Both must have been scored on the same documents. Documents are drawn with replacement within each task, the same
    draw for both models (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3), 10,000 times.
    """
    for task in tasks:
        if model.keys(task) != other.keys(task):
            raise ValueError(f"both models must be scored on the same documents of {task.task}")
    draws = _draws(model, tasks, seed)
    sampled = _resampled(model, tasks, kind, draws) - _resampled(other, tasks, kind, draws)
    return _interval(objective(model, tasks, kind) - objective(other, tasks, kind), sampled)


def _draws(scores: Scores, tasks: Sequence[TaskMetric], seed: int) -> dict[str, NDArray[np.float64]]:
    """For each task how often each of its n documents is drawn in each resample: [R, n].

    R is `RESAMPLES`, and less where a task's number is a function of all its documents.
    """
    resamples = RESAMPLES if all(task.aggregation.corpus is None for task in tasks) else CORPUS_RESAMPLES
    generator = np.random.default_rng(seed)
    counts = {task.task: len(scores.keys(task)) for task in tasks}
    return {
        task: generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
        for task, count in counts.items()
    }


def _resampled(
    scores: Scores, tasks: Sequence[TaskMetric], kind: Objective, draws: dict[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    means = [task.aggregation.resampled(scores.values(task), scores.items(task), draws[task.task]) for task in tasks]
    return combine(means, tasks, kind)


def _interval(value: float, sampled: NDArray[np.float64]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(sampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
