"""What a candidate would score on all documents, from those it has been scored on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluators import Document, Scores, TaskMetric
from evomerge.search.factors import FactorModel
from evomerge.search.racing import Reference, difference

_CANDIDATES = 32  # of those scored in full, the latest: they are nearest to what a search proposes now


class Estimate(NamedTuple):
    """A task's number over all documents, and its standard error: 0 where all of them are seen."""

    value: float
    stderr: float


def estimates(
    tasks: Sequence[TaskMetric], full: Sequence[Scores], seen: Scores, documents: Sequence[Document]
) -> tuple[Estimate, ...]:
    """What a candidate that is scored on some of `documents` would get on all of them, task by task.

    Means come from one Gaussian factor model over the documents of all tasks (`FactorModel`), so that what is seen of
    one task also tells of the others. The number of a ratio or of a function of all documents is that of the latest
    fully scored candidates on all documents, plus the paired difference on those seen.

    Args:
        tasks: T task metrics.
        full: the scores of the run's candidates that have all documents, in the order of their trials; at least one.
        seen: the candidate's scores. They may have been stopped by a rule that looks at them.
        documents: all documents to estimate for, those of every task in `tasks`.

    Returns:
        T estimates, in the order of `tasks`.

    Raises:
        ValueError: `full` is empty or lacks a document, or there is no document of a task.
    """
    if not full:
        raise ValueError("an estimate must rest on a fully scored candidate, but there is none")
    full = full[-_CANDIDATES:]
    of_mean = [task for task in tasks if task.aggregation.is_mean]
    modelled = dict(zip(of_mean, _modelled(of_mean, full, seen, documents), strict=True)) if of_mean else {}
    return tuple(modelled[task] if task in modelled else _paired(task, full, seen, documents) for task in tasks)


def estimate(task: TaskMetric, full: Sequence[Scores], seen: Scores, documents: Sequence[Document]) -> Estimate:
    """As `estimates`, for one task on its own."""
    return estimates([task], full, seen, documents)[0]


class Column(NamedTuple):
    """One task's values, in units of a document's standard deviation.

    Attributes:
        full: of the fully scored candidates, C x N.
        seen: of the candidate, N; NaN where it is not scored.
        unit: what a value of 1 stands for.
    """

    full: NDArray[np.float64]
    seen: NDArray[np.float64]
    unit: float


def column(task: TaskMetric, full: Sequence[Scores], seen: Scores, documents: Sequence[Document]) -> Column:
    """The values of `task` on its documents, in their order.

    A document on which the candidate was scored and has no value does not count; where a fully scored one has none, the
    others' mean stands in.

    Raises:
        ValueError: as `estimates`.
    """
    keys = [document.key for document in documents if document.task == task.task]
    mine = dict(zip(seen.keys(task), seen.values(task), strict=True))
    keys = [key for key in keys if not math.isnan(mine.get(key, 0.0))]
    if not keys:
        raise ValueError(f"an estimate must have documents, but there are none of task {task.task!r}")
    rows = []
    for scores in full:
        theirs = dict(zip(scores.keys(task), scores.values(task), strict=True))
        if any(key not in theirs for key in keys):
            raise ValueError(f"fully scored candidates must have all documents of {task.task!r}, but one has not")
        rows.append([theirs[key] for key in keys])
    values = np.array(rows, dtype=np.float64)
    there = ~np.isnan(values)
    sums, counts = np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0)
    overall = sums.sum() / max(counts.sum(), 1)
    values = np.where(there, values, np.where(counts > 0, sums / np.maximum(counts, 1), overall))
    candidate = np.array([mine.get(key, math.nan) for key in keys])
    unit = _unit(np.concatenate([values.ravel(), candidate[~np.isnan(candidate)]]))
    return Column(values / unit, candidate / unit, unit)


def _unit(values: NDArray[np.float64]) -> float:
    """The standard deviation of a document's value: 1/2, the most it can be, where values are 0 or 1."""
    if np.isin(values, (0.0, 1.0)).all():
        return 0.5
    return float(values.std()) or 1.0


def _modelled(
    tasks: Sequence[TaskMetric], full: Sequence[Scores], seen: Scores, documents: Sequence[Document]
) -> list[Estimate]:
    columns = [column(task, full, seen, documents) for task in tasks]
    sizes = [len(each.seen) for each in columns]
    of_task = np.repeat(np.arange(len(tasks)), sizes)
    model = FactorModel(np.concatenate([each.full for each in columns], axis=1), of_task)
    values = np.concatenate([each.seen for each in columns])
    places = np.flatnonzero(~np.isnan(values))
    parts = [np.flatnonzero(of_task == number) for number in range(len(tasks))]
    means, errors = model.means(places, values[places], parts)
    return [Estimate(float(m * c.unit), float(e * c.unit)) for m, e, c in zip(means, errors, columns, strict=True)]


def _paired(task: TaskMetric, full: Sequence[Scores], seen: Scores, documents: Sequence[Document]) -> Estimate:
    of_task = [document for document in documents if document.task == task.task]
    reference = Reference(task, [scores.of(of_task) for scores in full[::-1]])
    gain = difference(reference, seen.of(of_task))
    if math.isnan(gain.mean):  # fewer than two documents
        return Estimate(task.sign * reference.number, math.inf)
    return Estimate(task.sign * (reference.number + gain.mean), math.sqrt(gain.variance))
