"""What one document's results are worth on one metric: a number, and what the metric's aggregation needs beside it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evomerge.errors import InputError, unknown_name
from evomerge.evaluators.aggregation import Aggregation
from evomerge.evaluators.packing import pack
from evomerge.evaluators.types import DocumentScore, TaskMetric


def document_score(
    metric: TaskMetric, document: str, results: Mapping[str, Any], declared: Iterable[str]
) -> DocumentScore:
    """The score of a document.

    A document whose results leave the metric out has no value and does not count, as in lm-eval.

    Args:
        metric: what is measured.
        document: the document's key.
        results: what the task's `process_results` gives for the document.
        declared: the metrics that the task lists.

    Raises:
        InputError: the results have other names than those that the task lists, or the metric's result is of no use
            to its aggregation.
    """
    if metric.metric not in results:
        if results and not set(results) & {metric.metric, *declared}:
            raise unknown_name(f"metric of task {metric.task!r}", metric.metric, map(str, results))
        return DocumentScore(metric.task, document, metric.label, math.nan)
    result = results[metric.metric]
    if metric.aggregation.is_mean:
        return DocumentScore(metric.task, document, metric.label, _number(result, metric))
    item = _item(result, metric)
    return DocumentScore(metric.task, document, metric.label, alone(metric.aggregation, item), item)


def alone(aggregation: Aggregation, item: str) -> float:
    """The number of one document; NaN where the function fails on a single one or gives nothing finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            number = aggregation.of(np.zeros(1), [item])
        except Exception:  # whatever a function of all documents does with one alone, it is not meant for it
            return math.nan
    return number if math.isfinite(number) else math.nan


def _number(result: Any, metric: TaskMetric) -> float:
    try:
        return float(result)
    except (TypeError, ValueError) as error:
        raise _unusable(metric, "a number", result) from error


def _item(result: Any, metric: TaskMetric) -> str:
    if metric.aggregation.link is None:
        try:
            return pack(result)
        except TypeError as error:
            raise InputError(
                f"metric {metric.metric!r} of task {metric.task!r} must give what JSON can write on each document, "
                f"but {error}"
            ) from error
    if metric.aggregation.name == "perplexity":  # of documents: each has the same weight
        return pack([_number(result, metric), 1.0])
    try:
        likelihood, weight = result
        return pack([float(likelihood), float(weight)])
    except (TypeError, ValueError) as error:
        raise _unusable(metric, "a pair of log-likelihood and weight", result) from error


def _unusable(metric: TaskMetric, wanted: str, result: Any) -> InputError:
    return InputError(
        f"metric {metric.metric!r} of task {metric.task!r} must be {wanted} on each document, "
        f"but is a {type(result).__name__}"
    )
