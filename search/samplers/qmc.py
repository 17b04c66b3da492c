"""A scrambled Sobol sequence: fills the box more evenly than independent proposals."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from scipy.stats import qmc as scipy_qmc

from evomerge.search.box import UnitCube
from evomerge.search.samplers.whole import WholePointSampler
from evomerge.search.sampling import SamplerContext, sampler


class SobolSampler(WholePointSampler):
    """Trial k gets point k of one sequence, whichever trials failed or run beside it.

    Args:
        context: its run seed scrambles the sequence (Owen, 1998); all dimensions must be numbers or gates.
    """

    def __init__(self, context: SamplerContext) -> None:
        super().__init__(context)
        self._cube = UnitCube("qmc", context.distributions)

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The sequence's point with the trial's number."""
        sequence = scipy_qmc.Sobol(len(self._cube), scramble=True, rng=self._context.run_seed)
        if trial.number:
            sequence.fast_forward(trial.number)
        return self._cube.point(sequence.random(1)[0])


@sampler("qmc")
def qmc(context: SamplerContext) -> BaseSampler:
    """A scrambled Sobol sequence indexed by the trial's number."""
    return SobolSampler(context)
