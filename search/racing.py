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
from evomerge.search.spending import nominal_levels

_GROUPS = 24  # of documents left out in turn, where a task's number is a function of all its documents


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a race says of a candidate after a look.

    Attributes:
        stop: whether the candidate is raced out.
        difference: how much higher its objective is than the incumbent's, estimated from the documents seen.
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

    def verdict(self, candidate: Scores, incumbent: Scores, look: int) -> Verdict:
        """Whether `candidate` is to be stopped, for the kinds mean and worst.

        Args:
            candidate: its scores on the documents of all rungs up to `look`.
            incumbent: the scores of the best candidate so far on all documents of the plan.
            look: the rung that was scored last, from 0.

        Raises:
            ValueError: the incumbent lacks a document that the candidate has.
        """
        parts = [difference(task, candidate, incumbent) for task in self._tasks]
        if self._kind == "worst":
            gap, p = self._worst(parts, incumbent)
        else:
            gap, p = self._mean(parts)
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
        members = [[difference(task, candidate, member) for task in self._tasks] for member in front]
        ps = [max(_p(part, self._racing.margin) for part in parts) for parts in members]
        nearest = int(np.argmin(ps))
        gap = max(part.mean for part in members[nearest])
        level = self._levels_among(len(front))[look]
        return self._judged(gap, ps[nearest], level, look)

    def _judged(self, gap: float, p: float, level: float, look: int) -> Verdict:
        return Verdict(p < level, gap, p, level, look)

    def _mean(self, parts: Sequence[Difference]) -> tuple[float, float]:
        """The difference of weighted means and its p-value."""
        total = sum(task.weight for task in self._tasks)
        shares = [task.weight / total for task in self._tasks]
        names = [task.task for task in self._tasks]
        whole = _stratified(parts, shares, names)
        return whole.mean, _p(whole, self._racing.margin)

    def _worst(self, parts: Sequence[Difference], incumbent: Scores) -> tuple[float, float]:
        """The difference of the worst tasks and its p-value.

        The candidate is better by more than the margin only if each of its tasks is better than the incumbent's worst
        by more than that, and the incumbent's numbers are known. So each task is tested against its own margin, and
        one rejection suffices, at a level shared among the tasks.
        """
        known = [task.sign * incumbent.task(task).mean for task in self._tasks]
        worst = min(known)
        margins = [self._racing.margin + worst - number for number in known]
        p = min(_p(part, margin) for part, margin in zip(parts, margins, strict=True))
        gap = min(number + part.mean for number, part in zip(known, parts, strict=True)) - worst
        return gap, min(1.0, p * len(parts))

    def _levels_among(self, members: int) -> tuple[float, ...]:
        if members not in self._front_levels:
            self._front_levels[members] = nominal_levels(self._racing.error / members, self._shares)
        return self._front_levels[members]


def difference(task: TaskMetric, candidate: Scores, incumbent: Scores) -> Difference:
    """How much higher the candidate's signed number is, from the documents that it has of those that the incumbent has.

    A number other than a mean enters by its jackknife pseudo-values n A - (n - 1) A(without i), which have the
    delta method's variance (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 11.5). A document on
    which either has no value does not count.

    Raises:
        ValueError: the incumbent lacks a document that the candidate has.
    """
    keys, of_incumbent = np.array(candidate.keys(task)), np.array(incumbent.keys(task))
    places = np.searchsorted(of_incumbent, keys) if len(of_incumbent) else np.zeros(len(keys), dtype=int)
    if len(keys) and (places.max(initial=0) >= len(of_incumbent) or (of_incumbent[places] != keys).any()):
        raise ValueError(f"the incumbent must be scored on all documents of {task.task!r} that the candidate has")
    whole, mine = incumbent.values(task), candidate.values(task)
    there = ~np.isnan(mine) & ~np.isnan(whole[places])
    places, mine = places[there], mine[there]
    total = int((~np.isnan(whole)).sum()) - int((~there).sum())
    if len(mine) < 2:
        return Difference(math.nan, math.inf, 0.0, 0.0)
    if task.aggregation.is_mean:
        gains = task.sign * (mine - whole[places])
        return _of_sample(gains, total - len(gains), _reach(np.concatenate([whole[~np.isnan(whole)], mine])))
    items, others = candidate.items(task), incumbent.items(task)
    kept = [items[int(place)] for place in np.flatnonzero(there)]
    paired = [others[int(place)] for place in places]
    own, other = pseudo_values(task, mine, kept), pseudo_values(task, whole[places], paired)
    unseen = (total - len(mine)) * len(own) / len(mine)
    return _of_sample(task.sign * (own - other), unseen, float(np.ptp(np.concatenate([own, other]))))


def pseudo_values(task: TaskMetric, values: NDArray[np.float64], items: Sequence[str | None]) -> NDArray[np.float64]:
    """The jackknife's pseudo-values of a task's number: one a document, or one for each of 24 groups of documents
    where the number is a function of all of them and dear."""
    count = len(values)
    groups = count if task.aggregation.corpus is None else min(count, _GROUPS)
    left_out = np.arange(count) * groups // count
    kept = (left_out[None, :] != np.arange(groups)[:, None]).astype(np.float64)
    numbers = task.aggregation.resampled(values, items, np.vstack([np.ones(count), kept]))
    return np.asarray(groups * numbers[0] - (groups - 1) * numbers[1:])


def _reach(values: NDArray[np.float64]) -> float:
    """The largest difference that two documents' values have; 1 where all are 0 or 1."""
    return 1.0 if np.isin(values, (0.0, 1.0)).all() else float(np.ptp(values))


def _of_sample(gains: NDArray[np.float64], unseen: float, reach: float) -> Difference:
    """The mean of a sample of n without replacement from n + `unseen`.

    Its spread is measured with the pseudo-observations of Agresti and Min: half a gain of `reach`, half a loss, a tie.
    """
    n = len(gains)
    errors = gains - gains.mean()
    left = unseen / (n + unseen)
    variance = (float(errors @ errors) + reach**2) / (n + 1) / n * left
    skew = float((errors**3).mean()) / n**2 * left * (2 * left - 1)
    return Difference(float(gains.mean()), variance, skew, n - 1)


def _stratified(parts: Sequence[Difference], shares: Sequence[float], names: Sequence[str]) -> Difference:
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


def _p(part: Difference, margin: float) -> float:
    """P(a difference as low as this), were it `margin` in truth."""
    if math.isinf(part.variance) or math.isnan(part.mean):
        return 1.0
    if part.variance == 0:
        return float(part.mean > margin)
    deviation = math.sqrt(part.variance)
    t = (part.mean - margin) / deviation
    skew = max(0.0, part.skew / deviation**3)  # a low mean may be one that has yet to see a few large gains
    return float(stdtr(part.degrees, t + skew / 3 * t**2 + skew**2 / 27 * t**3 + skew / 6))
