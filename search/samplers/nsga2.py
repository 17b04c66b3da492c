"""NSGA-II (Deb et al. 2002, IEEE TEC 6(2); constraints as in its section VI)."""

from __future__ import annotations

from typing import Annotated

from optuna.samplers import BaseSampler
from pydantic import Field

from evomerge.search.samplers.generations import POPULATION, GenerationSampler
from evomerge.search.sampling import SamplerContext, sampler


@sampler("nsga2")
def nsga2(context: SamplerContext, *, population: Annotated[int, Field(ge=2)] = POPULATION) -> BaseSampler:
    """NSGA-II, replayed from the trials before each proposal.

    Args:
        context: of the trial.
        population: trials of a generation.
    """
    return GenerationSampler(context, population)
