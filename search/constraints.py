"""Constraints: bounds on tasks' scores that a candidate has to keep, some of them set by another model's score.

A bound counts as Optuna and Deb have it (Deb 2000, Computer Methods in Applied Mechanics and Engineering 186): how far
a candidate is beyond it, positive where it is broken. Candidates are ordered by three rules: one that keeps all bounds
comes before one that does not, two that keep them are ordered by the objective, two that do not by their total
violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from evomerge.errors import CandidateError, InputError, unknown_name
from evomerge.evaluators import Scores, TaskMetric
from evomerge.evaluators.config import Constraint, EvaluateConfig
from evomerge.search.jackknife import pseudo_values

BASE = "base"
LEAST_SEEN = 8  # documents of a task, before anything is said of the others

_ROUNDING = 1e-9  # two means of the same numbers may differ by this much


@dataclass(frozen=True)
class Bound:
    """A bound on one task's score.

    Attributes:
        name: the rule in words, such as "bbq acc >= base - 0.02".
        task: what is bounded.
        floor: the lowest score that keeps the bound, the margin taken off; None for a ceiling.
        ceiling: the highest score that keeps it, the margin added; None for a floor.
        reference: the model whose score sets the bound; None where a number does.
        margin: by how much the reference's score or the number may be missed, in the metric's unit.
        against: the reference's document scores.
    """

    name: str
    task: TaskMetric
    floor: float | None
    ceiling: float | None
    reference: str | None = None
    margin: float = 0.0
    against: Scores | None = field(default=None, repr=False, compare=False)

    @property
    def limit(self) -> float:
        """The floor or the ceiling."""
        return float(self.floor if self.floor is not None else self.ceiling)  # type: ignore[arg-type]

    @property
    def sign(self) -> float:
        """+1 for a ceiling, -1 for a floor: a score's violation is sign (score - limit)."""
        return 1.0 if self.floor is None else -1.0

    def violation(self, scores: Scores) -> float:
        """How far the score is beyond the bound; at most 0: kept. Less than 1e-9 is rounding, and counts as 0.

        Where `scores` lack documents, the reference's score is taken on those that they have.

        Raises:
            CandidateError: the task has no score.
            ValueError: `scores` have documents that the reference was not scored on.
        """
        value = scores.task(self.task).mean
        if np.isnan(value):
            raise CandidateError(f"a bounded task must have a score, but {self.task.task!r} has none ({self.name})")
        return self._beyond(value, self._limit_for(scores))

    def is_lost(self, scores: Scores, total: int, error: float) -> bool:
        """Whether the bound cannot be kept any more, as far as a one-sided test on the documents seen so far can tell.

        The documents seen are taken for a random sample of the task's. The test looks at each one's share in the
        violation, x, next to the reference's on the same document, with Student's t and the correction for finite
        populations (Cochran, Sampling Techniques, 1977, section 2.8): var = s^2 / n (1 - n / N). Two more documents
        of +x' and -x' smooth s and the mean, in the manner of Agresti and Coull (1998), since documents that are all
        alike do not prove that the others are; x' is the largest |x|, and at least 1 where scores are in [0, 1].

        Args:
            scores: of some documents of the split that the bound was resolved on.
            total: N, how many documents the task has in the split.
            error: the highest probability of saying so of a candidate that would keep the bound.

        Returns:
            False, too, before `LEAST_SEEN` documents; for a corpus metric, which has no shares, before the last.
        """
        seen = scores.task(self.task).n
        if seen >= total:
            return self.violation(scores) > 0
        if seen < LEAST_SEEN or self.task.aggregation.corpus is not None:
            return False
        shares = self._shares(scores)
        largest = max(np.abs(shares).max(), 1.0 if _is_share(scores.values(self.task)) else 0.0)
        smoothed = np.append(shares, [largest, -largest])
        standard_error = smoothed.std(ddof=1) * np.sqrt((1 - seen / total) / seen)
        return bool(smoothed.mean() > student.ppf(1 - error, seen - 1) * standard_error)

    def _beyond(self, value: float, limit: float) -> float:
        violation = self.sign * (value - limit)
        return 0.0 if abs(violation) < _ROUNDING else violation

    def _limit_for(self, scores: Scores) -> float:
        if self.against is None:
            return self.limit
        return self.against_on(scores).task(self.task).mean + self.sign * self.margin

    def against_on(self, scores: Scores) -> Scores:
        """The reference's scores on the documents that `scores` have. Raises ValueError where it lacks one."""
        assert self.against is not None
        rows = {row.document: row for row in self.against.rows(self.task)}
        keys = scores.keys(self.task)
        missing = [key for key in keys if key not in rows]
        if missing:
            raise ValueError(f"{self.reference} must be scored on each document of {self.name}, but not {missing[0]}")
        return Scores(tuple(rows[key] for key in keys))

    def _shares(self, scores: Scores) -> npt.NDArray[np.float64]:
        """Each document's share in the violation, n; their mean is the violation.

        For a ratio, the jackknife's `pseudo_values`.
        """
        mine = pseudo_values(self.task, scores.values(self.task), scores.items(self.task))
        if self.against is None:
            return self.sign * (mine - self.limit)
        there = ~np.isnan(mine)
        against = self.against_on(scores)
        others = pseudo_values(self.task, against.values(self.task), against.items(self.task))
        return (self.sign * (mine - others) - self.margin)[there & ~np.isnan(others)]


def _is_share(values: npt.NDArray[np.float64]) -> bool:
    return bool(np.nanmin(values) >= 0 and np.nanmax(values) <= 1)


@dataclass(frozen=True)
class Bounds:
    """All bounds of a search on one set of documents; resolve them anew for another."""

    bounds: tuple[Bound, ...] = ()

    @classmethod
    def resolve(
        cls,
        config: EvaluateConfig,
        tasks: Sequence[TaskMetric],
        score_of: Callable[[str], Scores],
    ) -> Bounds:
        """The configuration's constraints as numbers.

        Args:
            config: with the constraints.
            tasks: what the evaluator measures.
            score_of: the scores of "base" or of the expert of that name, on the documents in question; asked once for
                each model that a constraint names.

        Raises:
            InputError: a constraint is on something that is not measured or is given twice, or its reference has no
                score.
        """
        known: dict[str, Scores] = {}
        found: dict[str, Bound] = {}
        for constraint in config.constraints:
            reference = constraint.at_least if isinstance(constraint.at_least, str) else None
            if reference is not None and reference not in known:
                known[reference] = score_of(reference)
            bound = _bound(constraint, _bounded(constraint, tasks), known.get(reference or ""))
            if bound.name in found:
                raise InputError(f"constraints must differ from each other, but {bound.name!r} is there twice")
            found[bound.name] = bound
        return cls(tuple(found.values()))

    def __iter__(self) -> Iterator[Bound]:
        return iter(self.bounds)

    def __len__(self) -> int:
        return len(self.bounds)

    def violations(self, scores: Scores) -> dict[str, float]:
        """How far the scores are beyond each bound, by its name; see `Bound.violation`."""
        return {bound.name: bound.violation(scores) for bound in self.bounds}

    def violated_for_sure(self, scores: Scores, totals: Mapping[str, int], error: float) -> bool:
        """Whether some bound cannot be kept any more; see `Bound.is_lost`.

        Args:
            scores: of the documents seen.
            totals: how many documents each task has in the split.
            error: over all bounds together, split evenly between them.
        """
        level = error / max(1, len(self.bounds))
        return any(bound.is_lost(scores, totals[bound.task.task], level) for bound in self.bounds)

    def verdicts(self, scores: Scores) -> dict[str, dict[str, Any]]:
        """What a report says of each bound, by its name: {bound, value, reference, margin, kept, violation}."""
        told = {}
        for bound in self.bounds:
            violation = bound.violation(scores)
            told[bound.name] = {
                "bound": bound.limit,
                "value": scores.task(bound.task).mean,
                "reference": bound.reference,
                "margin": bound.margin,
                "kept": violation <= 0,
                "violation": violation,
            }
        return told


def total_violation(violations: Mapping[str, float]) -> float:
    """The sum of what is broken (Deb 2000, section 3); 0: everything is kept."""
    return float(sum(max(0.0, violation) for violation in violations.values()))


def check_references(config: EvaluateConfig, experts: Sequence[str]) -> None:
    """Raise InputError, with the nearest name, unless every constraint refers to `base`, an expert, or a number."""
    for constraint in config.constraints:
        name = constraint.at_least
        if isinstance(name, str) and name not in {BASE, *experts}:
            raise unknown_name(f"at_least of the constraint on {constraint.task!r}", name, [BASE, *experts])


def _bound(constraint: Constraint, task: TaskMetric, against: Scores | None) -> Bound:
    wanted = constraint.at_least if constraint.at_least is not None else constraint.at_most
    is_floor = constraint.at_least is not None and (against is None or task.higher_is_better)
    slack = f" {'-' if is_floor else '+'} {constraint.margin:g}" if constraint.margin else ""
    told = wanted if isinstance(wanted, str) else f"{wanted:g}"
    name = f"{task.task} {task.label} {'>=' if is_floor else '<='} {told}{slack}"
    level = wanted if against is None else against.task(task).mean
    assert isinstance(level, int | float)
    if np.isnan(level):
        raise InputError(f"the reference of a constraint must have a score, but {told} has none on {task.task!r}")
    reference = wanted if isinstance(wanted, str) else None
    floor, ceiling = (level - constraint.margin, None) if is_floor else (None, level + constraint.margin)
    return Bound(name, task, floor, ceiling, reference, constraint.margin, against)


def _bounded(constraint: Constraint, tasks: Sequence[TaskMetric]) -> TaskMetric:
    """What is measured of the task that the constraint is on."""
    of_task = [task for task in tasks if task.task == constraint.task]
    if not of_task:
        raise unknown_name("the task of a constraint", constraint.task, {task.task for task in tasks})
    fitting = [task for task in of_task if _fits(constraint, task)]
    if len(fitting) != 1:
        measured = ", ".join(task.label for task in of_task)
        wanted = constraint.metric if constraint.metric is not None else "none"
        raise InputError(f"metric of the constraint on {constraint.task!r} must be one of {measured}, but got {wanted}")
    return fitting[0]


def _fits(constraint: Constraint, task: TaskMetric) -> bool:
    metric, filtered = constraint.metric, constraint.filter
    return (metric is None or metric == task.metric) and (filtered is None or filtered == task.filter)
