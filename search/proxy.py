"""How far a cheap stand-in can be trusted: its relation to the metric, over the run's own candidates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from evomerge.evaluators import Scores, TaskMetric
from evomerge.search.estimate import Estimate

LEAST_PAIRS = 10  # candidates scored by both, before a stand-in leads
LEAST_CORRELATION = 0.7  # rank correlation, below which the metric itself is scored
ANCHOR_EVERY = 5  # while a stand-in leads, every so many trials the metric is scored as well


class Pair(NamedTuple):
    """One candidate's task score by its stand-in and by the metric, either signed so that higher is better."""

    proxy: float
    metric: float


@dataclass(frozen=True)
class Fit:
    """The line from a stand-in to the metric of one task.

    Attributes:
        correlation: Spearman's rank correlation; 0 where either does not vary.
        pairs: how many candidates it is from.
        slope, intercept: of the least-squares line.
        spread: the standard deviation of the metric around the line, n - 2 degrees of freedom.
    """

    correlation: float
    pairs: int
    slope: float
    intercept: float
    spread: float

    @property
    def is_open(self) -> bool:
        """Whether too few candidates were scored by both to say."""
        return self.pairs < LEAST_PAIRS

    @property
    def is_trusted(self) -> bool:
        """Whether the stand-in may lead the search."""
        return not self.is_open and self.correlation >= LEAST_CORRELATION

    def predict(self, proxy: float) -> float:
        """The metric that the stand-in lets expect."""
        return self.intercept + self.slope * proxy


def fit(pairs: Sequence[Pair]) -> Fit:
    """Relate a stand-in to its metric. With fewer than 3 candidates nothing is known: correlation 0."""
    if len(pairs) < 3:
        return Fit(0.0, len(pairs), 0.0, math.nan, math.nan)
    proxy, metric = np.array([pair.proxy for pair in pairs]), np.array([pair.metric for pair in pairs])
    slope, intercept = 0.0, float(metric.mean())
    if np.ptp(proxy) > 0:
        slope, intercept = (float(number) for number in np.polyfit(proxy, metric, 1))
    residuals = metric - (intercept + slope * proxy)
    spread = math.sqrt(float(residuals @ residuals) / (len(pairs) - 2))
    return Fit(spearman(proxy, metric), len(pairs), slope, intercept, spread)


def spearman(first: Sequence[float] | np.ndarray[Any, Any], second: Sequence[float] | np.ndarray[Any, Any]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where either side does not vary."""
    one, two = rankdata(first), rankdata(second)
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def predicted(
    tasks: Sequence[TaskMetric],
    proxies: Mapping[str, TaskMetric],
    fits: Mapping[TaskMetric, Fit],
    trusted: Collection[str],
    scores: Scores,
) -> list[Estimate]:
    """The tasks' scores by the metric, for `trusted` tasks as their stand-ins let expect, for others as scored."""
    found = []
    for task in tasks:
        if task.task not in trusted:
            found.append(Estimate(scores.number(task), 0.0))
            continue
        proxy = proxies[task.task]
        line = fits[task]
        found.append(Estimate(task.sign * line.predict(proxy.sign * scores.number(proxy)), line.spread))
    return found
