"""Independent uniform proposals: the reference that any other sampler has to beat."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from evomerge.search.samplers.whole import WholePointSampler, random_point
from evomerge.search.sampling import SamplerContext, sampler


class UniformSampler(WholePointSampler):
    """Uniform in each dimension, from random numbers of the trial's own.

    Args:
        context: of one trial.
    """

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """A uniform draw; looks at no other trial."""
        return random_point(self._context, study, trial)


@sampler("random")
def random(context: SamplerContext) -> BaseSampler:
    """Uniform proposals with a seed for each trial."""
    return UniformSampler(context)
