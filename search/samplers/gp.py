"""A Gaussian process: the most thrifty sampler in up to some dozens of dimensions."""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler

from evomerge.search.sampling import SamplerContext, sampler


@sampler("gp")
def gp(context: SamplerContext) -> BaseSampler:
    """Optuna's GPSampler (log expected improvement, 2310.20708), fitted anew for each trial; scores are noisy."""
    return GPSampler(seed=context.seed, deterministic_objective=False)
