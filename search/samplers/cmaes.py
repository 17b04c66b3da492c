"""CMA-ES whose state is a pure function of the study's trials: nothing of it is stored, pickled or lost.

The strategy is replayed from the finished trials before each proposal (Hansen, The CMA Evolution Strategy: A Tutorial,
1604.00772). Of a generation it needs the ranks alone, and these obey constraints by Deb's rule (Deb 2000, Computer
Methods in Applied Mechanics and Engineering 186): candidates that keep them come first, by their value, then the others
by how far they are beyond them. Above `SEPARABLE_FROM` dimensions its separable form (Ros and Hansen, 2008) learns a
diagonal only, which needs far fewer trials.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from cmaes import CMA, SepCMA
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from evomerge.search.box import UnitCube
from evomerge.search.constraints import total_violation
from evomerge.search.sampling import (
    SamplerContext,
    enqueued_trials,
    proposed_trials,
    require_one_objective,
    sampler,
)

SEPARABLE_FROM = 48
INITIAL_SIGMA = 1 / 6  # of each bound's width


class ReplayedCmaEs(BaseSampler):
    """Proposes from the distribution that the finished generations lead to.

    A generation is the next `population_size` finished trials that this sampler proposed, in order of their numbers.
    The first mean is the best warm start by the same rule, or the centre of the box. A failed trial ranks last in its
    generation.

    Args:
        context: all dimensions must be numbers, and there must be one objective.
    """

    def __init__(self, context: SamplerContext) -> None:
        require_one_objective("cmaes", context)
        self._context = context
        self._cube = UnitCube("cmaes", context.distributions)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._context.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A draw from the current normal distribution, inside of the box, from the trial's own random numbers."""
        strategy = self._replay(study, trial.number)
        strategy.reseed_rng(self._context.seed)
        return self._cube.point(strategy.ask())

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The entry of a whole proposal."""
        return self.sample_relative(study, trial, dict(self._context.distributions))[param_name]

    def _replay(self, study: optuna.Study, before: int) -> CMA | SepCMA:
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        names = set(self._context.distributions)
        trials = [trial for trial in proposed_trials(study, before) if names <= set(trial.params)]
        first = trials[0].number if trials else before
        strategy = self._start(self._mean(_ranked(enqueued_trials(study, first), sign)))
        size = strategy.population_size
        for start in range(0, len(trials) - size + 1, size):
            ranked = _ranked(trials[start : start + size], sign)
            strategy.tell([(self._cube.coordinates(trial.params), rank) for rank, trial in enumerate(ranked)])
        return strategy

    def _start(self, mean: NDArray[np.float64]) -> CMA | SepCMA:
        dimensions = len(self._cube)
        bounds = np.tile([0.0, 1.0], (dimensions, 1))
        form = SepCMA if dimensions >= SEPARABLE_FROM else CMA
        return form(mean=mean, sigma=INITIAL_SIGMA, bounds=bounds)

    def _mean(self, ranked: list[FrozenTrial]) -> NDArray[np.float64]:
        if not ranked or ranked[0].value is None:
            return np.full(len(self._cube), 0.5)
        return self._cube.coordinates(ranked[0].params)


def _ranked(trials: list[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """The best first; failed trials last."""

    def rank(trial: FrozenTrial) -> tuple[bool, float, float, int]:
        if trial.value is None:
            return True, 0.0, 0.0, trial.number
        return False, total_violation(trial.constraints), sign * trial.value, trial.number

    return sorted(trials, key=rank)


@sampler("cmaes")
def cmaes(context: SamplerContext) -> BaseSampler:
    """CMA-ES from the best warm start, replayed from the trials before each proposal."""
    return ReplayedCmaEs(context)
