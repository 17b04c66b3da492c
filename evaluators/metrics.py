"""Which metric and filter of an lm-eval task are meant, and whether the metric can be scored document by document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lm_eval.api.registry import get_aggregation
from lm_eval.api.task import Task

from evomerge.errors import InputError, unknown_name
from evomerge.evaluators.config import TaskSpec
from evomerge.evaluators.types import TaskMetric


def task_metric(name: str, task: Task, spec: TaskSpec, weight: float) -> TaskMetric:
    """The metric of `task` that `spec` means.

    Args:
        name: the task's name.
        task: as lm-eval loaded it.
        spec: the entry of the configuration that stands for the task.
        weight: the task's share of the entry's weight.

    Raises:
        InputError: unknown metric or filter; a metric that is no mean of single-document numbers or states no
            direction; several filters and none named.
    """
    metric = _metric(name, task, spec.metric)
    higher_is_better = task.higher_is_better().get(metric)
    if higher_is_better is None:
        raise InputError(f"metric {metric!r} of task {name!r} must state `higher_is_better` in the task file")
    return TaskMetric(name, metric, _filter(name, task, metric, spec.filter), bool(higher_is_better), weight)


def _metric(name: str, task: Task, wanted: str | None) -> str:
    aggregations: dict[str, Any] = task.aggregation()
    if wanted is not None and wanted not in aggregations:
        raise unknown_name(f"metric of task {name!r}", wanted, aggregations)
    metric = wanted or next(iter(aggregations))
    means = [candidate for candidate, aggregation in aggregations.items() if _is_mean(aggregation)]
    if metric not in means:
        found = getattr(aggregations[metric], "__name__", "nothing")
        raise InputError(
            f"metric of task {name!r} must be a mean of single documents' numbers ({', '.join(means) or 'it has none'})"
            f", but {metric!r} is aggregated by {found}"
        )
    return metric


def _is_mean(aggregation: Callable[..., Any] | None) -> bool:
    return aggregation in (get_aggregation("mean"), get_aggregation("nanmean"), np.mean, np.nanmean)


def _filter(name: str, task: Task, metric: str, wanted: str | None) -> str:
    filters = [ensemble.name for ensemble in task._filters]
    if wanted is None and len(filters) > 1:
        raise InputError(
            f"filter of task {name!r} must be named, as several give {metric}: "
            f"{', '.join(f'{metric},{each}' for each in filters)}"
        )
    if wanted is not None and wanted not in filters:
        raise unknown_name(f"filter of task {name!r}", wanted, filters)
    return wanted or str(filters[0])
