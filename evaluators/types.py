"""Documents and their scores: small frozen types that carry what an evaluator found. No torch, no lm-eval here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Split = Literal["search", "select", "report"]
SPLITS: tuple[Split, ...] = ("search", "select", "report")


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """One number that a search looks at: a metric of a task.

    Attributes:
        task: the task's name.
        metric: the metric's name, as the task lists it.
        filter: which of the task's filters cuts the answer out of the model's text.
        higher_is_better: the metric's own direction.
        weight: its share in the mean over tasks, relative to the others; positive.
    """

    task: str
    metric: str
    filter: str = "none"
    higher_is_better: bool = True
    weight: float = 1.0

    @property
    def label(self) -> str:
        """The metric as scores name it: `metric,filter`, without the filter where it is "none"."""
        return self.metric if self.filter == "none" else f"{self.metric},{self.filter}"

    @property
    def sign(self) -> float:
        """+1 where higher is better, -1 where lower is."""
        return 1.0 if self.higher_is_better else -1.0


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a task.

    Attributes:
        task: the task it belongs to.
        key: hexadecimal digest of its content, the same on every machine; further copies of the same content in
            the task end in "-1", "-2", ...
        index: its place in the task's data, from 0.
        split: the part of the data it fell into.
    """

    task: str
    key: str
    index: int
    split: Split


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """What a model got on one document.

    Attributes:
        task: the task's name.
        document: the document's key.
        metric: the metric's label (see `TaskMetric.label`).
        value: the metric's value on this document alone; NaN: not scored.
    """

    task: str
    document: str
    metric: str
    value: float


class TaskScore(NamedTuple):
    """The mean of a metric over documents.

    Attributes:
        mean: over the scored documents; NaN without any.
        stderr: the standard error of the mean, s / sqrt(n) with s the sample standard deviation; NaN below 2.
        n: how many documents are scored.
    """

    mean: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Scores:
    """The document scores of one model, on one or several splits.

    Attributes:
        documents: one score for each document and metric, in the order of (task, metric, document key), so that the
            scores of two models on the same documents pair up.

    Raises:
        ValueError: a document has two different scores on one metric.
    """

    documents: tuple[DocumentScore, ...] = ()

    def __post_init__(self) -> None:
        unique: dict[tuple[str, str, str], DocumentScore] = {}
        for score in self.documents:
            held = unique.setdefault((score.task, score.metric, score.document), score)
            if not _same(held.value, score.value):
                raise ValueError(
                    f"a document must have one score on a metric, but {score.document} of task {score.task!r} "
                    f"has {held.value} and {score.value} on {score.metric}"
                )
        object.__setattr__(self, "documents", tuple(unique[place] for place in sorted(unique)))

    @cached_property
    def _columns(self) -> dict[tuple[str, str], tuple[tuple[str, ...], npt.NDArray[np.float64]]]:
        rows: dict[tuple[str, str], list[DocumentScore]] = {}
        for score in self.documents:
            rows.setdefault((score.task, score.metric), []).append(score)
        return {
            column: (tuple(s.document for s in scores), np.array([s.value for s in scores], dtype=np.float64))
            for column, scores in rows.items()
        }

    def keys(self, task: TaskMetric) -> tuple[str, ...]:
        """The keys of the documents scored on `task`, in the order of `values`."""
        return self._columns.get((task.task, task.label), ((), np.empty(0)))[0]

    def values(self, task: TaskMetric) -> npt.NDArray[np.float64]:
        """The scores on `task`, n documents, float64, ordered by document key (ready for a paired bootstrap)."""
        return self._columns.get((task.task, task.label), ((), np.empty(0)))[1].copy()

    def task(self, task: TaskMetric) -> TaskScore:
        """Mean, standard error and count of the scores on `task`; documents with NaN are not counted."""
        values = self.values(task)
        scored = [float(value) for value in values if not math.isnan(value)]
        n = len(scored)
        if n == 0:
            return TaskScore(math.nan, math.nan, 0)
        mean = math.fsum(scored) / n
        if n == 1:
            return TaskScore(mean, math.nan, 1)
        variance = math.fsum((value - mean) ** 2 for value in scored) / (n - 1)
        return TaskScore(mean, math.sqrt(variance / n), n)

    def of(self, documents: Iterable[Document]) -> Scores:
        """The scores of these documents alone."""
        kept = {(document.task, document.key) for document in documents}
        return Scores(tuple(score for score in self.documents if (score.task, score.document) in kept))

    def __or__(self, other: Scores) -> Scores:
        """Both together. Raises ValueError where the two disagree on a document."""
        return Scores(self.documents + other.documents)


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
