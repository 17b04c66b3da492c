"""The tree-structured Parzen estimator: for spaces with choices and conditions."""

from __future__ import annotations

from typing import Annotated

from optuna.samplers import BaseSampler, TPESampler
from pydantic import Field

from evomerge.search.samplers.mirrored import MirroredSampler
from evomerge.search.sampling import SamplerContext, sampler


@sampler("tpe")
def tpe(
    context: SamplerContext,
    *,
    startup: Annotated[int, Field(ge=1)] = 10,
    candidates: Annotated[int, Field(ge=1)] = 24,
) -> BaseSampler:
    """Optuna's multivariate TPESampler (Watanabe, 2304.11127) with a seed for each trial.

    Args:
        context: of the trial.
        startup: trials with values, warm starts included, before the first model; until then proposals are uniform.
        candidates: drawn from the good trials' density, of which the one with the best ratio is proposed.
    """
    inner = TPESampler(
        seed=context.seed, n_startup_trials=startup, n_ei_candidates=candidates, multivariate=True, constant_liar=True
    )
    return MirroredSampler(context, inner, conditional=True)
