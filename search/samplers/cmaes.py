"""CMA-ES whose state is a pure function of the study's trials: nothing of it is stored, pickled or lost.

The strategy is replayed from the finished trials before each proposal (Hansen, The CMA Evolution Strategy: A Tutorial,
1604.00772). Of a generation it needs the ranks alone, and these obey constraints by Deb's rule (Deb 2000, Computer
Methods in Applied Mechanics and Engineering 186): candidates that keep them come first, by their value, then the others
by how far they are beyond them. Above `SEPARABLE_FROM` dimensions its separable form (Ros and Hansen, 2008) learns a
diagonal only, which needs far fewer trials.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import optuna
from cmaes import CMA, SepCMA
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from pydantic import Field

from evomerge.search.box import UnitCube
from evomerge.search.constraints import total_violation
from evomerge.search.mirror import is_warm_start, whole_point
from evomerge.search.samplers.whole import WholePointSampler
from evomerge.search.sampling import SamplerContext, finished_trials, require_one_objective, sampler

SEPARABLE_FROM = 48
INITIAL_SIGMA = 1 / 6  # of each bound's width


class ReplayedCmaEs(WholePointSampler):
    """Proposes from the distribution that the finished generations lead to.

    A generation is the next `population` finished trials that this sampler proposed, in the order in which they were
    told. The first mean is the best warm start by the same rule, or the centre of the box. A failed trial ranks last
    in its generation.

    Args:
        context: all dimensions must be numbers or gates, and there must be one objective.
        population: trials of a generation; None: 4 + 3 ln d of d dimensions.
        sigma: the first standard deviation, in widths of the bounds.
    """

    def __init__(self, context: SamplerContext, population: int | None = None, sigma: float = INITIAL_SIGMA) -> None:
        require_one_objective("cmaes", context)
        super().__init__(context)
        self._population = population
        self._sigma = sigma
        self._cube = UnitCube("cmaes", context.distributions)

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """A draw from the current normal distribution, inside of the box, from the trial's own random numbers."""
        strategy = self._replay(study)
        strategy.reseed_rng(self._context.seed)
        return self._cube.point(strategy.ask())

    def _replay(self, study: optuna.Study) -> CMA | SepCMA:
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        names = set(self._context.distributions)
        told = finished_trials(study)
        trials = [trial for trial in told if not is_warm_start(trial) and names <= set(whole_point(trial))]
        before = told.index(trials[0]) if trials else len(told)
        starts = [trial for trial in told[:before] if is_warm_start(trial) and names <= set(whole_point(trial))]
        strategy = self._start(self._mean(_ranked(starts, sign)))
        size = strategy.population_size
        for start in range(0, len(trials) - size + 1, size):
            ranked = _ranked(trials[start : start + size], sign)
            strategy.tell([(self._cube.coordinates(whole_point(trial)), rank) for rank, trial in enumerate(ranked)])
        return strategy

    def _start(self, mean: NDArray[np.float64]) -> CMA | SepCMA:
        dimensions = len(self._cube)
        bounds = np.tile([0.0, 1.0], (dimensions, 1))
        form = SepCMA if dimensions >= SEPARABLE_FROM else CMA
        return form(mean=mean, sigma=self._sigma, bounds=bounds, population_size=self._population)

    def _mean(self, ranked: list[FrozenTrial]) -> NDArray[np.float64]:
        if not ranked or ranked[0].value is None:
            return np.full(len(self._cube), 0.5)
        return self._cube.coordinates(whole_point(ranked[0]))


def _ranked(trials: list[FrozenTrial], sign: float) -> list[FrozenTrial]:
    """The best first; failed trials last."""

    def rank(trial: FrozenTrial) -> tuple[bool, float, float, int]:
        if trial.value is None:
            return True, 0.0, 0.0, trial.number
        return False, total_violation(trial.constraints), sign * trial.value, trial.number

    return sorted(trials, key=rank)


@sampler("cmaes")
def cmaes(
    context: SamplerContext,
    *,
    population: Annotated[int, Field(ge=4)] | None = None,
    sigma: Annotated[float, Field(gt=0, le=1)] = INITIAL_SIGMA,
) -> BaseSampler:
    """CMA-ES from the best warm start, replayed from the trials before each proposal."""
    return ReplayedCmaEs(context, population, sigma)
