"""CMA-ES whose state is a pure function of the study's trials: nothing of it is stored, pickled or lost.

The strategy is replayed from the finished trials before each proposal (Hansen, The CMA Evolution Strategy: A Tutorial,
1604.00772). Above `SEPARABLE_FROM` dimensions its separable form (Ros and Hansen, 2008) learns a diagonal only,
which needs far fewer trials.
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
from evomerge.search.sampling import SamplerContext, enqueued_trials, proposed_trials, sampler

SEPARABLE_FROM = 48
INITIAL_SIGMA = 1 / 6  # of each bound's width


class ReplayedCmaEs(BaseSampler):
    """Proposes from the distribution that the finished generations lead to.

    A generation is the next `population_size` finished trials that this sampler proposed, in order of their numbers.
    The first mean is the best warm start, or the centre of the box. A failed trial ranks last in its generation.

    Args:
        context: all dimensions must be numbers.
    """

    def __init__(self, context: SamplerContext) -> None:
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
        strategy = self._start(self._mean(enqueued_trials(study, first), sign))
        size = strategy.population_size
        for start in range(0, len(trials) - size + 1, size):
            strategy.tell(self._told(trials[start : start + size], sign))
        return strategy

    def _start(self, mean: NDArray[np.float64]) -> CMA | SepCMA:
        dimensions = len(self._cube)
        bounds = np.tile([0.0, 1.0], (dimensions, 1))
        form = SepCMA if dimensions >= SEPARABLE_FROM else CMA
        return form(mean=mean, sigma=INITIAL_SIGMA, bounds=bounds)

    def _mean(self, warm: list[FrozenTrial], sign: float) -> NDArray[np.float64]:
        scored = [trial for trial in warm if trial.value is not None]
        if not scored:
            return np.full(len(self._cube), 0.5)
        return self._cube.coordinates(min(scored, key=lambda trial: (sign * _value(trial), trial.number)).params)

    def _told(self, generation: list[FrozenTrial], sign: float) -> list[tuple[NDArray[np.float64], float]]:
        values = [sign * _value(trial) for trial in generation if trial.value is not None]
        worst = max(values, default=0.0)
        return [
            (self._cube.coordinates(trial.params), worst if trial.value is None else sign * trial.value)
            for trial in generation
        ]


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


@sampler("cmaes")
def cmaes(context: SamplerContext) -> BaseSampler:
    """CMA-ES from the best warm start, replayed from the trials before each proposal."""
    return ReplayedCmaEs(context)
