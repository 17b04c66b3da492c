"""Documents and their scores: small frozen types that carry what an evaluator found. No torch, no lm-eval here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evomerge.evaluators.aggregation import MEAN, Aggregation

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
        weight: its share in the mean over tasks, relative to the others; 0: it has no part in the objective.
        aggregation: how the documents' results become the task's number.
    """

    task: str
    metric: str
    filter: str = "none"
    higher_is_better: bool = True
    weight: float = 1.0
    aggregation: Aggregation = MEAN

    @property
    def label(self) -> str:
        """The metric as scores name it: `metric,filter`, without the filter where it is "none"."""
        return self.metric if self.filter == "none" else f"{self.metric},{self.filter}"

    @property
    def sign(self) -> float:
        """+1 where higher is better, -1 where lower is."""
        return 1.0 if self.higher_is_better else -1.0


def described(task: TaskMetric) -> list[object]:
    """What a task metric is, as plain data for fingerprints."""
    return [task.task, task.metric, task.filter, task.higher_is_better, task.weight, task.aggregation.name]


def titles(tasks: Sequence[TaskMetric]) -> tuple[str, ...]:
    """A name for each: the task's, with ",metric" behind it where several metrics of one task are measured."""
    names = [task.task for task in tasks]
    return tuple(task.task if names.count(task.task) == 1 else f"{task.task},{task.label}" for task in tasks)


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
        value: the metric's value on this document alone; NaN: it has none.
        item: what the task's aggregation needs beyond the value, as JSON; None where the value suffices.
    """

    task: str
    document: str
    metric: str
    value: float
    item: str | None = None


class TaskScore(NamedTuple):
    """A metric over documents.

    Attributes:
        mean: over the scored documents (or what the task's aggregation makes of them); NaN without any.
        stderr: its standard error; of a mean s / sqrt(n) with s the sample standard deviation; of anything else the
            jackknife's (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equation 11.5); NaN below 2.
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
    def _columns(self) -> dict[tuple[str, str], tuple[DocumentScore, ...]]:
        rows: dict[tuple[str, str], list[DocumentScore]] = {}
        for score in self.documents:
            rows.setdefault((score.task, score.metric), []).append(score)
        return {column: tuple(scores) for column, scores in rows.items()}

    def rows(self, task: TaskMetric) -> tuple[DocumentScore, ...]:
        """The documents' scores on `task`, ordered by document key."""
        return self._columns.get((task.task, task.label), ())

    def keys(self, task: TaskMetric) -> tuple[str, ...]:
        """The keys of the documents scored on `task`, in the order of `values`."""
        return tuple(score.document for score in self.rows(task))

    def values(self, task: TaskMetric) -> npt.NDArray[np.float64]:
        """The scores on `task`, n documents, float64, ordered by document key (ready for a paired bootstrap)."""
        return np.array([score.value for score in self.rows(task)], dtype=np.float64)

    def items(self, task: TaskMetric) -> tuple[str | None, ...]:
        """What the aggregation of `task` needs of each document, in the order of `values`."""
        return tuple(score.item for score in self.rows(task))

    def task(self, task: TaskMetric) -> TaskScore:
        """The metric over the documents, its standard error and their count; documents without a value do not count."""
        values, items = self.values(task), self.items(task)
        counted = int(task.aggregation.counted(values, items).sum())
        return TaskScore(task.aggregation.of(values, items), task.aggregation.stderr(values, items), counted)

    def number(self, task: TaskMetric) -> float:
        """As `task`, without the standard error, which is dear where the metric is a function of all documents."""
        return task.aggregation.of(self.values(task), self.items(task))

    def of(self, documents: Iterable[Document]) -> Scores:
        """The scores of these documents alone."""
        kept = {(document.task, document.key) for document in documents}
        return Scores(tuple(score for score in self.documents if (score.task, score.document) in kept))

    def __or__(self, other: Scores) -> Scores:
        """Both together. Raises ValueError where the two disagree on a document."""
        return Scores(self.documents + other.documents)


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
