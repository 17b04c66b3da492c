"""The one number that a search maximizes, from the scores of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from evomerge.evaluators.types import Scores, TaskMetric

Objective = Literal["mean", "worst", "pareto"]


def objective(scores: Scores, tasks: Sequence[TaskMetric], kind: Objective = "mean") -> float:
    """How good a model is; higher is always better.

    A metric of which less is better enters with a minus sign.

    Args:
        scores: of the documents to count.
        tasks: the task metrics to count; at least one.
        kind: as in `combine`.

    Returns:
        The objective; NaN where a task has no scored document.
    """
    return float(combine([np.float64(scores.number(task)) for task in tasks], tasks, kind))


def combine(
    means: Sequence[npt.NDArray[np.float64] | np.float64], tasks: Sequence[TaskMetric], kind: Objective
) -> npt.NDArray[np.float64]:
    """Objectives from the tasks' means, many at once.

    Args:
        means: for each task an array of means, all of one shape.
        tasks: as many, in the same order.
        kind: "mean": sum(w s) / sum(w) over the signed means s with weights w; "worst": the lowest s, without weights;
            "pareto": as "mean", which picks one model where several are on the front. Tasks of weight 0 do not count.

    Returns:
        An array of that shape; NaN wherever a mean is.
    """
    counted = [(task, mean) for task, mean in zip(tasks, means, strict=True) if task.weight > 0]
    signed = np.stack([task.sign * np.asarray(mean) for task, mean in counted])
    if kind == "worst":
        return np.asarray(signed.min(axis=0))
    weights = np.array([task.weight for task, _ in counted])
    return np.asarray(np.tensordot(weights / weights.sum(), signed, axes=1))
