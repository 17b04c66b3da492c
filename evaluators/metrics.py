"""Which metric and filter of an lm-eval task are meant, and how single documents' results become its number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from lm_eval.api.registry import METRIC_REGISTRY, get_aggregation, is_higher_better
from lm_eval.api.task import Task

from evomerge.errors import InputError, unknown_name
from evomerge.evaluators.aggregation import MEAN, Aggregation, Floats
from evomerge.evaluators.calibration import CALIBRATION_ERROR, EXPECTED_CALIBRATION_ERROR, require_choices
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
        InputError: unknown metric or filter; a metric that measures nothing or states no direction; several filters
            and none named.
    """
    functions: dict[str, Any] = task.aggregation()
    metric = spec.metric or next(iter(functions), None)
    if metric is None:
        raise InputError(f"task {name!r} must have a metric, but its metric_list is empty")
    chosen = _filter(name, task, metric, spec.filter)
    if metric == CALIBRATION_ERROR and metric not in functions:
        require_choices(name, task)
        return TaskMetric(name, metric, chosen, False, weight, EXPECTED_CALIBRATION_ERROR)
    source = _source(name, task, metric, functions)
    return TaskMetric(
        name, metric, chosen, _higher_is_better(name, task, source), weight, aggregation_of(functions[source])
    )


def _source(name: str, task: Task, metric: str, functions: Mapping[str, Any]) -> str:
    """The metric in the task's list that gives `metric`: itself, or a function whose results are named when it runs."""
    if metric in functions:
        if functions[metric] is get_aggregation("bypass"):
            raise InputError(f"metric of task {name!r} must measure something, but {metric!r} bypasses all metrics")
        return metric
    own = [each for each in getattr(task, "_metric_fn_list", None) or () if each not in METRIC_REGISTRY]
    if not own or getattr(task.config, "process_results", None) is not None:
        raise unknown_name(f"metric of task {name!r}", metric, functions)
    return str(own[0])


def _higher_is_better(name: str, task: Task, metric: str) -> bool:
    stated = task.higher_is_better().get(metric)
    if stated is None:
        stated = is_higher_better(metric)
    if stated is None:
        raise InputError(f"metric {metric!r} of task {name!r} must state `higher_is_better` in the task file")
    return bool(stated)


def aggregation_of(function: Callable[..., Any] | None) -> Aggregation:
    """lm-eval's aggregation function as one that can be resampled; None is a mean, as lm-eval has it.

    Its means leave out documents without a number, as its `nanmean` does.
    """
    if function in _MEANS:
        return MEAN
    for name, link in _LINKS.items():
        if function is get_aggregation(name):
            return Aggregation(name, link=link)
    return Aggregation(str(getattr(function, "__name__", type(function).__name__)), corpus=function)


def _perplexity(mean: Floats) -> Floats:
    """exp(-x) of a mean log-likelihood x in nats: by document, word or byte."""
    return np.exp(-mean)


def _bits(mean: Floats) -> Floats:
    return -mean / math.log(2)


_MEANS = (None, get_aggregation("mean"), get_aggregation("nanmean"), np.mean, np.nanmean)
_LINKS: dict[str, Callable[[Floats], Floats]] = {
    "perplexity": _perplexity,
    "weighted_perplexity": _perplexity,
    "bits_per_byte": _bits,
}


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
