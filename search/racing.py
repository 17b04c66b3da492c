"""Whether a candidate may still be the best: a sequential paired test against the incumbent on the documents seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from evomerge.evaluators import Document, Scores, TaskMetric
from evomerge.evaluators.config import Racing
from evomerge.evaluators.objective import Objective
from evomerge.search.jackknife import pseudo_values
from evomerge.search.spending import nominal_levels

_MEMBERS = 8  # more fully scored candidates than that predict a document hardly better


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a race says of a candidate after a look.

    Attributes:
        stop: whether the candidate is raced out.
        difference: how much higher its objective is than the incumbent's, estimated from the documents seen; NaN while
            a task has less than two.
        p: the probability of a difference as low as this were the candidate better by the margin, corrected for the
            number of tests at this look; in [0, 1].
        level: below which `p` stops the candidate at this look.
        look: the look.
    """

    stop: bool
    difference: float
    p: float
    level: float
    look: int


class Difference(NamedTuple):
    """How much higher a candidate's signed number on a task is, estimated from n of N documents.

    Attributes:
        mean: the estimate.
        variance: of the estimate, with the finite population's correction; 0 with all documents seen, inf below 2.
        skew: the estimate's third central moment.
        degrees: of freedom of the variance.
    """

    mean: float
    variance: float
    skew: float
    degrees: float


class Race:
    """Decides after each rung whether a candidate goes on.

    A candidate is stopped when the hypothesis is rejected that its objective on the whole split is better than the
    incumbent's by more than `racing.margin`. The probability of stopping a candidate for which it holds is at most
    `racing.error` over all looks together, up to the normal approximation (benchmarks/racing.py measures it).

    The whole split is a finite population from which the documents seen are a sample without replacement: the test is
    that of a stratified mean with Satterthwaite's degrees of freedom (Cochran, Sampling Techniques, 1977, section 5.4).
    Its variance has the pseudo-observations of Agresti and Min (Simple improved confidence intervals for comparing
    matched proportions, Statistics in Medicine 24, 2005), so that a few documents that all agree do not count as
    certainty, and its statistic the transformation for skewed gains of Hall (On the removal of skewness by
    transformation, J. R. Statist. Soc. B 54, 1992, section 2), where that makes a stop less likely.

    Args:
        tasks: what is measured; those of weight 0 have no part.
        kind: the objective.
        racing: the error and the margin.
        rungs: the plan by which candidates are scored, rung by rung in chunks of documents.
    """

    def __init__(
        self,
        tasks: Sequence[TaskMetric],
        kind: Objective,
        racing: Racing,
        rungs: Sequence[Sequence[Sequence[Document]]],
    ) -> None:
        self._tasks = tuple(task for task in tasks if task.weight > 0)
        self._kind = kind
        self._racing = racing
        counted = {task.task for task in self._tasks}
        sizes = [sum(document.task in counted for chunk in rung for document in chunk) for rung in rungs]
        self._shares = tuple(float(share) for share in np.cumsum(sizes) / sum(sizes))
        self._levels = nominal_levels(racing.error, self._shares)
        self._front_levels: dict[int, tuple[float, ...]] = {1: self._levels}
        self._held: list[tuple[tuple[Scores, ...], list[Reference]]] = []

    def verdict(self, candidate: Scores, incumbent: Scores, look: int, peers: Sequence[Scores] = ()) -> Verdict:
        """Whether `candidate` is to be stopped, for the kinds mean and worst.

        Args:
            candidate: its scores on the documents of all rungs up to `look`.
            incumbent: the scores of the best candidate so far on all documents of the plan, and on no others.
            look: the rung that was scored last, from 0.
            peers: other candidates with all documents of the plan, the best first: the more there are, up to 7, the
                fewer documents a verdict takes.

        Raises:
            ValueError: the incumbent lacks a document that the candidate has, or peers have others than it.
        """
        (references,) = self._references_to([(incumbent, *peers[: _MEMBERS - 1])])
        parts = [difference(reference, candidate) for reference in references]
        gap, p = self._worst(parts, references) if self._kind == "worst" else self._mean(parts)
        return self._judged(gap, p, self._levels[look], look)

    def dominated(self, candidate: Scores, front: Sequence[Scores], look: int) -> Verdict:
        """Whether `candidate` is to be stopped because a member of the front is better in every task.

        The hypothesis against one member is that the candidate is better by more than the margin in some task; it is
        rejected when it is for each task at the full level (an intersection-union test: Berger, Multiparameter
        hypothesis testing and acceptance sampling, Technometrics 24, 1982). The error is shared among the members.

        Args:
            candidate: as in `verdict`.
            front: the scores of its members on all documents of the plan; at least one.
            look: as in `verdict`.

        Returns:
            The verdict on the member that is nearest to stopping it; `difference` is the smallest lag over the tasks.
        """
        references = self._references_to([(member,) for member in front])
        members = [[difference(each, candidate) for each in of_member] for of_member in references]
        ps = [max(p_value(part, self._racing.margin) for part in parts) for parts in members]
        nearest = int(np.argmin(ps))
        gap = max(part.mean for part in members[nearest])
        return self._judged(gap, ps[nearest], self._levels_among(len(front))[look], look)

    def _judged(self, gap: float, p: float, level: float, look: int) -> Verdict:
        return Verdict(p < level, gap, p, level, look)

    def _mean(self, parts: Sequence[Difference]) -> tuple[float, float]:
        """The difference of weighted means and its p-value."""
        total = sum(task.weight for task in self._tasks)
        shares = [task.weight / total for task in self._tasks]
        names = [task.task for task in self._tasks]
        whole = stratified(parts, shares, names)
        return whole.mean, p_value(whole, self._racing.margin)

    def _worst(self, parts: Sequence[Difference], references: Sequence[Reference]) -> tuple[float, float]:
        """The difference of the worst tasks and its p-value.

        The candidate is better by more than the margin only if each of its tasks is better than the incumbent's worst
        by more than that, and the incumbent's numbers are known. So each task is tested against its own margin, and
        one rejection suffices, at a level shared among the tasks.
        """
        known = [reference.number for reference in references]
        worst = min(known)
        p = min(p_value(part, self._racing.margin + worst - number) for part, number in zip(parts, known, strict=True))
        gap = min(number + part.mean for number, part in zip(known, parts, strict=True)) - worst
        return gap, min(1.0, p * len(parts))

    def _references_to(self, groups: Sequence[tuple[Scores, ...]]) -> list[list[Reference]]:
        """For each group of members the references of the tasks; those of the last call where they are the same."""
        held = {tuple(map(id, members)): (members, references) for members, references in self._held}
        self._held = [
            held.get(tuple(map(id, members))) or (members, [Reference(task, members) for task in self._tasks])
            for members in groups
        ]
        return [references for _, references in self._held]

    def _levels_among(self, members: int) -> tuple[float, ...]:
        if members not in self._front_levels:
            self._front_levels[members] = nominal_levels(self._racing.error / members, self._shares)
        return self._front_levels[members]


class Reference:
    """What candidates are compared with on one task: an incumbent, and what to expect of each document.

    A candidate's number on all documents is estimated from its gains over the mean of several fully scored candidates,
    whose own number is known (the difference estimator: Cochran, Sampling Techniques, 1977, section 7.2 with a slope of
    1). Several predict a document better than the incumbent alone, and chance in the incumbent's own answers drops out.

    Args:
        task: the task.
        members: their scores on all documents, the incumbent first; the first 8 are used.

    Raises:
        ValueError: members have different documents.
    """

    def __init__(self, task: TaskMetric, members: Sequence[Scores]) -> None:
        members = members[:_MEMBERS]
        keys = members[0].keys(task)
        if any(each.keys(task) != keys for each in members):
            raise ValueError(f"peers must have the incumbent's documents of {task.task!r}, but one has others")
        values = np.array([each.values(task) for each in members], dtype=np.float64)
        items = [each.items(task) for each in members]
        there = np.flatnonzero(~np.isnan(values).any(axis=0))
        self.task = task
        self.keys = np.array(keys, dtype=np.str_)[there]
        self.values: NDArray[np.float64] = values[:, there]
        self.items = [[of_member[int(place)] for place in there] for of_member in items]
        numbers = [task.aggregation.of(row, item) for row, item in zip(self.values, self.items, strict=True)]
        self.number = task.sign * numbers[0]
        self.lead = task.sign * float(np.mean(numbers)) - self.number
        self._all_keys = np.array(keys, dtype=np.str_)

    def places(self, keys: Sequence[str]) -> NDArray[np.intp]:
        """Where these documents are among those of the members, -1 for one on which a member has no value.

        Raises:
            ValueError: the members lack one of the documents.
        """
        wanted = np.array(keys, dtype=np.str_)
        if not np.isin(wanted, self._all_keys).all():
            raise ValueError(
                f"the incumbent must be scored on all documents of {self.task.task!r} that the candidate has"
            )
        if not len(self.keys):
            return np.full(len(wanted), -1, dtype=np.intp)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, places, -1)


def difference(reference: Reference, candidate: Scores) -> Difference:
    """How much higher the candidate's signed number is than the incumbent's, from the documents that it has.

    A number other than a mean enters by its jackknife's `pseudo_values`. A document on which anybody has no value does
    not count.

    Raises:
        ValueError: the incumbent lacks a document that the candidate has.
    """
    task = reference.task
    places, mine = reference.places(candidate.keys(task)), candidate.values(task)
    there = np.flatnonzero((places >= 0) & ~np.isnan(mine))
    total = len(reference.keys) - int(((places >= 0) & np.isnan(mine)).sum())
    if len(there) < 2:
        return Difference(math.nan, math.inf, 0.0, 0.0)
    places, mine = places[there], mine[there]
    theirs = reference.values[:, places]
    if task.aggregation.is_mean:
        widest = reach(np.concatenate([reference.values[0], mine]))
    else:
        items = candidate.items(task)
        mine = pseudo_values(task, mine, [items[int(place)] for place in there])
        of_members = zip(theirs, reference.items, strict=True)
        theirs = np.array([pseudo_values(task, row, [item[int(p)] for p in places]) for row, item in of_members])
        widest = float(np.ptp(np.concatenate([mine, theirs[0]])))
    gains = task.sign * (mine - theirs.mean(axis=0))
    unseen = (total - len(there)) * len(gains) / len(there)
    gain = of_sample(gains, unseen, widest)
    return gain._replace(mean=gain.mean + reference.lead)


def reach(values: NDArray[np.float64]) -> float:
    """The largest difference that two documents' values have; 1 where all are 0 or 1."""
    return 1.0 if np.isin(values, (0.0, 1.0)).all() else float(np.ptp(values))


def of_sample(gains: NDArray[np.float64], unseen: float, reach: float) -> Difference:
    """The mean of a sample of n without replacement from n + `unseen`.

    Its spread is measured with the pseudo-observations of Agresti and Min: half a gain of `reach`, half a loss, a tie.
    """
    n = len(gains)
    errors = gains - gains.mean()
    left = unseen / (n + unseen)
    variance = (float(errors @ errors) + reach**2) / (n + 1) / n * left
    skew = float((errors**3).mean()) / n**2 * left * (2 * left - 1)
    return Difference(float(gains.mean()), variance, skew, n - 1)


def stratified(parts: Sequence[Difference], shares: Sequence[float], names: Sequence[str]) -> Difference:
    """The weighted sum of differences; those of one task share documents and count as perfectly correlated."""
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    strata: dict[str, tuple[float, float, float]] = {}
    for share, part, name in zip(shares, parts, names, strict=True):
        deviation, skew, degrees = strata.get(name, (0.0, 0.0, math.inf))
        deviation, skew = deviation + share * math.sqrt(part.variance), skew + share * math.cbrt(part.skew)
        strata[name] = deviation, skew, min(degrees, part.degrees)
    variance = sum(deviation**2 for deviation, _, _ in strata.values())
    if not 0 < variance < math.inf:
        return Difference(mean, variance, 0.0, 0.0)
    lost = sum(deviation**4 / degrees for deviation, _, degrees in strata.values())
    return Difference(mean, variance, sum(skew**3 for _, skew, _ in strata.values()), variance**2 / lost)


def p_value(part: Difference, margin: float) -> float:
    """P(a difference as low as this), were it `margin` in truth."""
    if math.isinf(part.variance) or math.isnan(part.mean):
        return 1.0
    if part.variance == 0:
        return float(part.mean > margin)
    deviation = math.sqrt(part.variance)
    t = (part.mean - margin) / deviation
    skew = max(0.0, part.skew / deviation**3)  # a low mean may be one that has yet to see a few large gains
    return float(stdtr(part.degrees, t + skew / 3 * t**2 + skew**2 / 27 * t**3 + skew / 6))
