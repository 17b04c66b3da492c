"""The tree-structured Parzen estimator: for spaces with choices and conditions."""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from evomerge.search.sampling import SamplerContext, sampler


@sampler("tpe")
def tpe(context: SamplerContext) -> BaseSampler:
    """Optuna's multivariate TPESampler (Watanabe, 2304.11127) with a seed for each trial."""
    return TPESampler(seed=context.seed)
