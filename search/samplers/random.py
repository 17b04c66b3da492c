"""Independent uniform proposals: the reference that any other sampler has to beat."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from evomerge.search.sampling import SamplerContext, sampler


@sampler("random")
def random(context: SamplerContext) -> BaseSampler:
    """Optuna's RandomSampler with a seed for each trial."""
    return RandomSampler(seed=context.seed)
