"""What is believed of the candidates of a study: a surrogate's posterior, which a lucky score does not move far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from scipy.stats import norm

from evomerge.evaluators import TaskMetric
from evomerge.evaluators.types import titles
from evomerge.search.features import Features, Floats
from evomerge.search.sampling import in_order_of_telling
from evomerge.search.study import CONSTRAINTS, STDERR, TASKS, complete_trials, is_estimated, trial_objective
from evomerge.search.surrogate import Posterior, Surrogate
from evomerge.spaces import METHOD, Dimension, Space
from evomerge.spaces.stack import SCALE

AT_LEAST = 6  # trials that a surrogate is fitted to
PARTS = 6  # tasks that have a surrogate each
NEWEST = 200  # of them that it takes; of older ones the best
ESTIMATES = 1.5  # estimates of stopped candidates are off by so many times their standard error
EDGE = 0.03  # of scores in [0, 1]: nearer to 0 and 1 log odds say more of single documents than of the candidate
GROWTH = 1.15  # hyperparameters are fitted again when there are so many times more


class Belief(NamedTuple):
    """A trial's objective on `search` without what was luck of its neighbourhood, and how far that may be off."""

    mean: float
    sd: float


class Model:
    """Surrogates of the objective and the constraints over the trials of one method.

    It depends on the finished trials alone: hyperparameters come from the first of them up to a number that grows by
    `GROWTH`, so that most proposals need no new fit, and a new process makes the same ones.

    Args:
        dimensions: of the method.
        trials: finished ones that have all of them as parameters, in the order of telling.
        values: their objectives, N.
        tasks: what is measured. Where the objective is the tasks' mean, each task has a surrogate of its own, since it
            is a simpler function of the numbers than the mean.

    Attributes:
        points: N x D in unit coordinates.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        trials: Sequence[FrozenTrial],
        values: Floats,
        tasks: Sequence[TaskMetric] = (),
    ) -> None:
        self._trials = list(trials)
        self.features = features_of(tuple(dimensions))
        self.points = np.array([_point_of(tuple(dimensions), trial) for trial in trials])
        self._mapped = self.features(self.points)
        self.errors = np.array([stderr_of(trial) for trial in trials])
        columns, self._shares = parts_of(trials, values, tasks)
        errors = self.errors / float(np.sqrt((self._shares**2).sum()))
        full = columns[self.errors == 0]
        self._warped = bool(len(full) and ((full >= 0) & (full <= 1)).all())
        if self._warped:
            inside = np.clip(columns, EDGE, 1 - EDGE)
            self._parts = [self._surrogate(np.log(c / (1 - c)), errors / (c * (1 - c))) for c in inside.T]
        else:
            self._parts = [self._surrogate(column, errors) for column in columns.T]
        self._bounds = self._of_constraints()

    def believe_in(self, points: Floats) -> None:
        """Take candidates under way, n x D, to come out as expected."""
        if len(points):
            mapped = self.features(points)
            self._parts = [each.with_pending(mapped) for each in self._parts]
            self._bounds = [each.with_pending(mapped) for each in self._bounds]

    def posterior(self, points: Floats) -> Posterior:
        """Of the objective at points [n, D]."""
        return self._posterior(self.features(points))

    def observed(self) -> Posterior:
        """Of the objective at the trials' own points."""
        return self._posterior(self._mapped)

    def feasible(self, points: Floats) -> Floats:
        """The probability at points [n, D] that all constraints are kept (Gardner et al. 2014, section 3.2)."""
        mapped = self.features(points)
        chance = np.ones(len(points))
        for surrogate in self._bounds:
            found = surrogate.posterior(mapped)
            chance *= norm.cdf(-found.mean / found.sd)
        return chance

    def _posterior(self, mapped: Floats) -> Posterior:
        found = [each.posterior(mapped) for each in self._parts]
        if self._warped:
            levels = [1 / (1 + np.exp(-each.mean / np.sqrt(1 + np.pi / 8 * each.sd**2))) for each in found]
            found = [Posterior(p, p * (1 - p) * each.sd) for p, each in zip(levels, found, strict=True)]
        mean = sum(share * each.mean for share, each in zip(self._shares, found, strict=True))
        variance = sum((share * each.sd) ** 2 for share, each in zip(self._shares, found, strict=True))
        return Posterior(np.asarray(mean), np.sqrt(variance))

    def _of_constraints(self) -> list[Surrogate]:
        names = {name for trial in self._trials for name in trial.user_attrs.get(CONSTRAINTS, {})}
        found = []
        for name in sorted(names):
            there = [trial.user_attrs.get(CONSTRAINTS, {}).get(name, np.nan) for trial in self._trials]
            violations = np.array(there, dtype=np.float64)
            known = ~np.isnan(violations)
            if known.sum() >= AT_LEAST:
                found.append(self._surrogate(violations[known], self.errors[known], self._mapped[known]))
        return found

    def _surrogate(self, values: Floats, errors: Floats, mapped: Floats | None = None) -> Surrogate:
        mapped = self._mapped if mapped is None else mapped
        early = AT_LEAST
        while early * GROWTH + 1 <= len(values):
            early = int(early * GROWTH + 1)
        first = fitted(mapped[:early], self.features.level, values[:early], errors[:early])
        chosen = _informative(values)
        return Surrogate(mapped[chosen], self.features.level, values[chosen], errors[chosen], like=first)


def parts_of(
    trials: Sequence[FrozenTrial], values: Floats, tasks: Sequence[TaskMetric]
) -> tuple[Floats, NDArray[np.float64]]:
    """The signed scores of N trials in T tasks, [N, T], and the share of each in the objective, [T].

    Where the objective is not their mean by weight, or they are more than `PARTS`: the objective itself, T = 1.
    """
    counted = [(title, task) for title, task in zip(titles(tasks), tasks, strict=True) if task.weight > 0]
    if 1 < len(counted) <= PARTS and all(TASKS in trial.user_attrs for trial in trials):
        told = [trial.user_attrs[TASKS] for trial in trials]
        columns = np.array([[task.sign * float(each[title]["value"]) for title, task in counted] for each in told])
        shares = np.array([task.weight for _, task in counted])
        shares = shares / shares.sum()
        if np.allclose(columns @ shares, values, atol=1e-6):
            return columns, shares
    return values[:, None], np.ones(1)


def beliefs(study: optuna.Study, space: Space, tasks: Sequence[TaskMetric]) -> Mapping[int, Belief]:
    """For each trial with a value what is believed of its objective; by the trial's number.

    Trials of a method of which fewer than `AT_LEAST` have one are believed as they were told, with their own error.
    """
    found: dict[int, Belief] = {}
    trials = in_order_of_telling(complete_trials(study))
    for method in space.methods:
        own = of_method(space, method, trials)
        values = np.array([trial_objective(trial, tasks) for trial in own])
        dimensions = numbers_of(space, method)
        if len(own) < AT_LEAST or not dimensions:
            found |= {t.number: Belief(float(value), stderr_of(t)) for t, value in zip(own, values, strict=True)}
            continue
        seen = Model(dimensions, own, values, tasks).observed()
        found |= {
            trial.number: Belief(float(mean), float(sd))
            for trial, mean, sd in zip(own, seen.mean, seen.sd, strict=True)
        }
    return found


def of_method(space: Space, method: str, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials of one method that have all of its numbers, in their order."""
    names = _names(space, method)
    several = len(space.methods) > 1
    return [
        trial
        for trial in trials
        if (not several or trial.params.get(METHOD) == method) and names <= trial.params.keys()
    ]


@lru_cache(maxsize=16)
def numbers_of(space: Space, method: str) -> tuple[Dimension, ...]:
    """The numbers of a method that every candidate has: no gates, and nothing that depends on one."""
    return tuple(each for each in space.dimensions(method) if not each.is_gate and each.parameter != SCALE)


@lru_cache(maxsize=16)
def _names(space: Space, method: str) -> frozenset[str]:
    return frozenset(dimension.name for dimension in numbers_of(space, method))


def stderr_of(trial: FrozenTrial) -> float:
    """Of the trial's value as an estimate of its full score; infinite ones count as 1, the width of a metric."""
    stderr = ESTIMATES * float(trial.user_attrs.get(STDERR, 1.0)) if is_estimated(trial) else 0.0
    return min(stderr, 1.0)


def unit_point(dimensions: Sequence[Dimension], params: Mapping[str, float]) -> Floats:
    """The coordinates in [0, 1] of a point of the box, [D]."""
    return np.array([(params[each.name] - each.low) / (each.high - each.low) for each in dimensions])


_fits: dict[tuple[bytes, ...], Surrogate] = {}
_points: dict[tuple[int, int], tuple[Mapping[str, float], tuple[Dimension, ...], Floats]] = {}


@lru_cache(maxsize=16)
def features_of(dimensions: tuple[Dimension, ...]) -> Features:
    """The features of some dimensions, made once."""
    return Features(dimensions)


def _point_of(dimensions: tuple[Dimension, ...], trial: FrozenTrial) -> Floats:
    """The trial's point, computed once for each trial that Optuna keeps in memory."""
    key = id(trial.params), id(dimensions)  # both are kept with the point, so that no other object takes their places
    if key not in _points:
        if len(_points) > 4096:
            _points.clear()
        _points[key] = trial.params, dimensions, unit_point(dimensions, trial.params)
    return _points[key][2]


def fitted(mapped: Floats, level: NDArray[np.intp], values: Floats, errors: Floats) -> Surrogate:
    """A surrogate with hyperparameters of its own, from the latest few that were fitted where it is among them."""
    key = (mapped.tobytes(), level.tobytes(), values.tobytes(), errors.tobytes())
    if key not in _fits:
        if len(_fits) > 64:
            del _fits[next(iter(_fits))]
        _fits[key] = Surrogate(mapped, level, values, errors)
    return _fits[key]


def _informative(values: Floats) -> NDArray[np.intp]:
    """The newest trials, and the best of the older ones: as many as a proposal has time for."""
    if len(values) <= NEWEST:
        return np.arange(len(values))
    newest = np.arange(len(values) - NEWEST // 2, len(values))
    older = np.argsort(-values[: newest[0]], kind="stable")[: NEWEST - len(newest)]
    return np.concatenate([np.sort(older), newest])
