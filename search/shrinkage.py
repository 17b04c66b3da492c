"""How much of the winner's score is luck of the choice: the best of many noisy scores flatters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluators import Scores, TaskMetric
from evomerge.evaluators.objective import Objective, combine, objective
from evomerge.search.jackknife import pseudo_values

RESAMPLES = 400
_WEIGHT = 0.632  # of the difference between a resample and the documents left out (Efron 1983, section 6)
_ROUNDING = 1e-9  # two means of the same numbers may differ by this much
_REACH = 128  # candidates; those further down are never chosen, and their numbers may be dear

Floats = NDArray[np.float64]


class Shrinkage(NamedTuple):
    """The winner's objective on the documents that it was chosen by, and on new ones.

    Attributes:
        chosen: the objective on the documents that it was chosen by.
        luck: by how much that is expected to be too high because it was chosen by them; at least 0.
        low, high: the 95 % interval of the objective on new documents: that of `chosen` over resampled documents, lower
            by `luck`.
    """

    chosen: float
    luck: float
    low: float
    high: float

    @property
    def expected(self) -> float:
        """The objective to expect on new documents."""
        return self.chosen - self.luck


@dataclass(frozen=True)
class Rival:
    """A candidate that could have won.

    Attributes:
        search: its scores on all documents of `search`.
        select: on all documents of `select`; None where it was not in the final.
    """

    search: Scores = field(repr=False)
    select: Scores | None = field(default=None, repr=False)


def shrinkage(
    tasks: Sequence[TaskMetric], kind: Objective, winner: Rival, others: Sequence[Rival], seed: int
) -> Shrinkage:
    """Expected shrinkage of the winner's score, without scoring anything more.

    Documents are drawn with replacement within each task and split, the candidate is chosen anew by its objective on
    the documents drawn, and its score on them is compared with its score on the documents left out, which is free of
    the luck of that choice (Efron, Estimating the error rate of a prediction rule, J. Am. Stat. Assoc. 78, 1983). The
    mean difference is that of a choice by fewer documents, since a resample weighs some of them several times; with
    Efron's weight of 0.632 for the documents left out it is that of the real choice to within half a point with 480
    documents in all, and to within two points with 120 (benchmarks/shrinkage.py). Documents that all candidates find
    easy move both sides alike and do not matter.

    A candidate outside the final counts on `select` with what it has on all of `search`.

    Args:
        tasks: what is measured; those of weight 0 have no part.
        kind: the objective; "pareto" as the weighted mean by which the winner is picked.
        winner: the candidate that was chosen.
        others: all others that could have been: those that are scored on all documents and keep the constraints.
        seed: of the resamples.

    Raises:
        ValueError: candidates have different documents.
    """
    tasks = [task for task in tasks if task.weight > 0]
    rivals = [winner, *_within_reach(tasks, kind, others)]
    names = sorted({task.task for task in tasks})  # metrics of one task share its draws
    resampled = [_resampled_task(task, rivals, [seed, names.index(task.task)]) for task in tasks]
    drawn, left_out = (combine(of_tasks, tasks, kind) for of_tasks in zip(*resampled, strict=True))
    best = drawn >= drawn.max(axis=1, keepdims=True) - _ROUNDING  # several where they are equal
    fall = np.where(best, drawn - left_out, 0.0).sum(axis=1) / best.sum(axis=1)
    luck = max(0.0, _WEIGHT * float(fall.mean()))
    chosen = objective(winner.search | (winner.select or Scores()), tasks, kind)
    low, high = np.quantile(drawn[:, 0], [0.025, 0.975]) - luck
    return Shrinkage(chosen, luck, float(low), float(high))


def _resampled_task(task: TaskMetric, rivals: Sequence[Rival], seed: Sequence[int]) -> tuple[Floats, Floats]:
    """The task's number for all candidates on the documents drawn and on those left out, R x C each."""
    drawn, left_out, sizes = [], [], []
    for place, (values, size) in enumerate(_parts(task, rivals)):
        inside, outside = _resampled(values, np.random.default_rng([*seed, place]))
        drawn.append(size * inside)
        left_out.append(size * outside)
        sizes.append(size)
    total = sum(sizes)
    return np.sum(drawn, axis=0) / total, np.sum(left_out, axis=0) / total


def _within_reach(tasks: Sequence[TaskMetric], kind: Objective, rivals: Sequence[Rival]) -> list[Rival]:
    """The best of them on `search`."""
    if len(rivals) <= _REACH:
        return list(rivals)
    means = [np.array([rival.search.number(task) for rival in rivals]) for task in tasks]
    best = np.argsort(-combine(means, tasks, kind), kind="stable")[:_REACH]
    return [rivals[int(place)] for place in best]


def _parts(task: TaskMetric, rivals: Sequence[Rival]) -> Iterator[tuple[Floats, int]]:
    """The candidates' values on `search` and, where there is one, on `select`, and how many documents they stand for.

    C x n each, with the task's numbers as their means.
    """
    of_search = _values(task, [rival.search for rival in rivals])
    yield of_search, len(rivals[0].search.keys(task))
    known = {place: rival.select for place, rival in enumerate(rivals) if rival.select and rival.select.keys(task)}
    if known:
        values = _values(task, list(known.values()))
        of_select = np.repeat(of_search.mean(axis=1)[:, None], values.shape[1], axis=1)
        of_select[list(known)] = values
        yield of_select, len(next(iter(known.values())).keys(task))


def _values(task: TaskMetric, scores: Sequence[Scores]) -> Floats:
    """C x n pseudo-values; documents on which a candidate has no value do not count."""
    keys = scores[0].keys(task)
    if any(each.keys(task) != keys for each in scores):
        raise ValueError(f"candidates must be scored on the same documents of {task.task!r}, but one has others")
    values = np.array([each.values(task) for each in scores])
    items = [each.items(task) for each in scores]
    counted = np.array([task.aggregation.counted(row, item) for row, item in zip(values, items, strict=True)])
    there = np.flatnonzero(counted.all(axis=0))
    kept = [[item[int(place)] for place in there] for item in items]
    return np.array([pseudo_values(task, row[there], item) for row, item in zip(values, kept, strict=True)])


def _resampled(values: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """The means of C candidates over n documents drawn with replacement and over those left out: R x C each.

    Where all are drawn, which only few documents make likely, the means over all stand in for those left out.
    """
    n = values.shape[1]
    counts = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    out = (counts == 0).astype(np.float64)
    out[~out.any(axis=1)] = 1.0
    return counts @ values.T / n, out @ values.T / out.sum(axis=1, keepdims=True)


def in_words(result: Mapping[str, Any]) -> str:
    """One sentence on the luck in the winner's score, from a result of `comparison.compare`; "" where it has none."""
    told = result.get("shrinkage")
    if told is None:
        return ""
    low, high = told["interval"]
    sentence = (
        f"The winner has {told['chosen']:.3f} on the documents it was chosen by; {told['expected']:.3f} "
        f"[{low:.3f}, {high:.3f}] is expected on new documents ({told['shrinkage']:.3f} is luck of the choice)"
    )
    if result["split"] == "report":
        sentence += f"; it has {result['winner']['objective']:.3f} on report"
    return f"{sentence}."
