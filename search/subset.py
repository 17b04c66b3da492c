"""A few documents that stand for all: chosen once, from the scores of the run's own candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluators import Document, Scores, TaskMetric
from evomerge.evaluators.objective import Objective, combine, objective
from evomerge.search.estimate import Column, column, estimate
from evomerge.search.factors import FactorModel

CANDIDATES = 8  # scored in full, the least to choose from
SMALLEST = 8  # documents a task

_LATEST = 32  # candidates to choose from
_FOLDS = 12
_SIZES = tuple(
    size for power in range(3, 20) for size in (2**power, 3 * 2 ** (power - 1))
)  # 8, 12, 16, 24, 32, 48, ...


@dataclass(frozen=True)
class Subset:
    """Documents that stand for all.

    Attributes:
        documents: in the order of the documents they were chosen from.
        size: how many of each task, as far as it has so many.
        error: the root mean square error of the objective estimated from them, over candidates that had no part in
            choosing them or in the estimate.
        noise: the standard error that the objective over all documents itself has as a sample, the root mean square
            over candidates.
        tried: each size that was looked at, with its error.
    """

    documents: tuple[Document, ...]
    size: int
    error: float
    noise: float
    tried: tuple[tuple[int, float], ...]


def choose_subset(
    tasks: Sequence[TaskMetric],
    kind: Objective,
    full: Sequence[Scores],
    documents: Sequence[Document],
    size: int | Literal["auto"],
) -> Subset:
    """The documents from which the full scores are best estimated, by `estimates`.

    As in tinyBenchmarks (Polo et al. 2024, arXiv 2402.14992) and MERGE3 (Mencattini et al. 2025, arXiv 2502.10436) a
    model of candidates and documents fills in the documents left out; here it is fitted to the run's own candidates.
    Documents are added to each task's subset one by one, always the one that leaves the least posterior variance of
    the mean over all (as active learning does: Cohn, Ghahramani and Jordan, Active learning with statistical models,
    J. Artificial Intelligence Research 4, 1996). Errors come from candidates left out, in at most 12 folds. A task
    whose number is no mean gives its first documents.

    Args:
        tasks: task metrics; of those on one task the first mean decides.
        kind: the objective.
        full: scores of at least 8 candidates on all of `documents`; the latest 32 are used.
        documents: to choose from.
        size: documents of each task, at least 8; "auto": the fewest whose error is at most `noise`.

    Raises:
        ValueError: too few candidates or documents, or a candidate lacks a document.
    """
    if len(full) < CANDIDATES:
        raise ValueError(f"a subset must be chosen from at least {CANDIDATES} candidates, but there are {len(full)}")
    if size != "auto" and size < SMALLEST:
        raise ValueError(f"a subset must have at least {SMALLEST} documents of each task, but got {size}")
    full = full[-_LATEST:]
    chooser = _Chooser(tasks, kind, full, documents)
    noise = _noise(tasks, kind, full)
    sizes = [each for each in _SIZES if each < chooser.largest] + [chooser.largest] if size == "auto" else [size]
    errors = chooser.errors(sizes)
    chosen = next((each for each in sizes if errors[each] <= noise), sizes[-1])
    keys = chooser.chosen(range(len(full)), chosen)
    kept = tuple(document for document in documents if document.key in keys.get(document.task, ()))
    return Subset(kept, chosen, errors[chosen], noise, tuple(errors.items()))


def informative_order(model: FactorModel, count: int) -> NDArray[np.intp]:
    """The places of `count` documents, each of which leaves the least posterior variance of the mean over all M.

    With loadings B [r, M], the factors' covariance P and the sum b of the loadings not chosen, choosing document i
    turns P into P - P B_i B_i' P / (noise + B_i' P B_i) and b into b - B_i; the variance is b' P b / M^2 and the noise
    of what is left, which is the same for all i.
    """
    loadings = model.loadings
    product = loadings.copy()  # P B
    spread = (loadings**2).sum(axis=0)  # the diagonal of B' P B
    total = loadings.sum(axis=1)
    free = np.ones(loadings.shape[1], dtype=bool)
    order = []
    for _ in range(min(count, len(free))):
        along = total @ product
        gain = 2 * along - spread + (along - spread) ** 2 / (model.noise + spread)
        place = int(np.argmax(np.where(free, gain, -np.inf)))
        order.append(place)
        free[place] = False
        row = loadings[:, place] @ product
        scale = model.noise + spread[place]
        product -= np.outer(product[:, place], row / scale)
        spread = spread - row**2 / scale
        total = total - loadings[:, place]
    return np.array(order, dtype=np.intp)


class _Chooser:
    """Chooses from some of the candidates and looks at the others."""

    def __init__(
        self, tasks: Sequence[TaskMetric], kind: Objective, full: Sequence[Scores], documents: Sequence[Document]
    ) -> None:
        self._tasks, self._kind, self._full, self._documents = tuple(tasks), kind, full, documents
        self._keys: dict[str, list[str]] = {}
        for document in documents:
            self._keys.setdefault(document.task, []).append(document.key)
        self._columns: dict[TaskMetric, Column] = {
            task: column(task, full, Scores(), documents) for task in tasks if task.aggregation.is_mean
        }
        self._deciding = {task.task: task for task in reversed(self._tasks) if task in self._columns}
        self.largest = max(map(len, self._keys.values()))

    def chosen(self, candidates: Sequence[int], size: int) -> Mapping[str, list[str]]:
        """By task the keys of its `size` documents, the most informative first."""
        chosen = {}
        for name, keys in self._keys.items():
            if name in self._deciding and size < len(keys):
                values = self._columns[self._deciding[name]].full[candidates]
                order = informative_order(FactorModel(values, np.zeros(len(keys), dtype=np.intp)), size)
                chosen[name] = [keys[place] for place in order]
            else:
                chosen[name] = keys[:size]
        return chosen

    def errors(self, sizes: Sequence[int]) -> dict[int, float]:
        """The root mean square error of each size over candidates left out."""
        count = len(self._full)
        squares = dict.fromkeys(sizes, 0.0)
        for fold in range(min(count, _FOLDS)):
            out = list(range(fold, count, _FOLDS))
            rest = [place for place in range(count) if place not in out]
            keys = self.chosen(rest, max(sizes))
            for size in sizes:
                few = {name: of_task[:size] for name, of_task in keys.items()}
                for candidate, value in zip(out, self._objectives(rest, out, few), strict=True):
                    squares[size] += (value - objective(self._full[candidate], self._tasks, self._kind)) ** 2
        return {size: math.sqrt(square / count) for size, square in squares.items()}

    def _objectives(self, rest: Sequence[int], out: Sequence[int], keys: Mapping[str, list[str]]) -> list[float]:
        """What the candidates left out are estimated to score, from the documents `keys` of each task."""
        places = {name: np.flatnonzero(np.isin(self._keys[name], of_task)) for name, of_task in keys.items()}
        means: dict[TaskMetric, list[float]] = {task: [] for task in self._tasks}
        columns = self._columns
        sizes = [len(each.seen) for each in columns.values()]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        of_task = np.repeat(np.arange(len(columns)), sizes)
        parts = [np.flatnonzero(of_task == number) for number in range(len(columns))]
        if columns:
            values = np.concatenate([each.full for each in columns.values()], axis=1)
            model = FactorModel(values[rest], of_task)
            seen = np.concatenate([places[task.task] + start for task, start in zip(columns, starts, strict=False)])
        for candidate in out:
            if columns:
                found, _ = model.means(seen, values[candidate, seen], parts)
                for (task, of_column), mean in zip(columns.items(), found, strict=True):
                    means[task].append(float(mean) * of_column.unit)
            for task in self._tasks:
                if task not in columns:
                    means[task].append(self._paired(task, rest, candidate, keys[task.task]))
        arrays = [np.array(means[task]) for task in self._tasks]
        return [float(value) for value in combine(arrays, self._tasks, self._kind)]

    def _paired(self, task: TaskMetric, rest: Sequence[int], candidate: int, keys: Sequence[str]) -> float:
        seen = [each for each in self._documents if each.task == task.task and each.key in set(keys)]
        others = [self._full[place] for place in rest]
        return estimate(task, others, self._full[candidate].of(seen), self._documents).value


def _noise(tasks: Sequence[TaskMetric], kind: Objective, full: Sequence[Scores]) -> float:
    counted = [task for task in tasks if task.weight > 0]
    total = sum(task.weight for task in counted)
    squares = []
    for scores in full:
        found = [(task, scores.task(task)) for task in counted]
        if kind == "worst":
            squares.append(min(found, key=lambda pair: pair[0].sign * pair[1].mean)[1].stderr ** 2)
        else:
            squares.append(sum((task.weight / total * score.stderr) ** 2 for task, score in found))
    return math.sqrt(sum(squares) / len(squares))
