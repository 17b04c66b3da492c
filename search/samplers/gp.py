"""A Gaussian process: the most thrifty sampler in up to some dozens of dimensions."""

from __future__ import annotations

from typing import Annotated

from optuna.samplers import BaseSampler, GPSampler
from pydantic import Field

from evomerge.search.samplers.mirrored import MirroredSampler
from evomerge.search.sampling import SamplerContext, sampler


@sampler("gp")
def gp(context: SamplerContext, *, startup: Annotated[int, Field(ge=1)] = 10) -> BaseSampler:
    """Optuna's GPSampler (log expected improvement, 2310.20708), fitted anew for each trial; scores are noisy.

    Args:
        context: of the trial.
        startup: trials with values, warm starts included, before the first model; until then proposals are uniform.
    """
    inner = GPSampler(
        seed=context.seed, n_startup_trials=startup, deterministic_objective=False, warn_independent_sampling=False
    )
    return MirroredSampler(context, inner)
