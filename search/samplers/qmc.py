"""A scrambled Sobol sequence: fills the box more evenly than independent proposals."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from scipy.stats import qmc as scipy_qmc

from evomerge.search.box import UnitCube
from evomerge.search.sampling import SamplerContext, sampler


class SobolSampler(BaseSampler):
    """Trial k gets point k of one sequence, whichever trials failed or run beside it.

    Args:
        context: its run seed scrambles the sequence (Owen, 1998); all dimensions must be numbers.
    """

    def __init__(self, context: SamplerContext) -> None:
        self._context = context
        self._cube = UnitCube("qmc", context.distributions)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._context.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The sequence's point with the trial's number."""
        sequence = scipy_qmc.Sobol(len(search_space), scramble=True, rng=self._context.run_seed)
        if trial.number:
            sequence.fast_forward(trial.number)
        return self._cube.point(sequence.random(1)[0])

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The entry of the whole point."""
        return self.sample_relative(study, trial, dict(self._context.distributions))[param_name]


@sampler("qmc")
def qmc(context: SamplerContext) -> BaseSampler:
    """A scrambled Sobol sequence indexed by the trial's number."""
    return SobolSampler(context)
