"""NSGA-III (Deb and Jain 2014, IEEE TEC 18(4)): survivors spread over reference directions, for many objectives."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from pydantic import Field

from evomerge.errors import InputError
from evomerge.search.mirror import view
from evomerge.search.samplers.generations import POPULATION, GenerationSampler
from evomerge.search.samplers.options import SECTION
from evomerge.search.sampling import SamplerContext, sampler

Points = list[list[Annotated[float, Field(ge=0)]]]


class ReferencePointSampler(GenerationSampler):
    """Survivors are those of whole fronts, and of the last one those nearest to the emptiest reference directions.

    Args:
        context: of one trial.
        population: trials of a generation.
        reference: directions [n x objectives], not negative; a step along an axis is a loss in that objective.
    """

    def __init__(self, context: SamplerContext, population: int, reference: NDArray[np.float64]) -> None:
        super().__init__(context, population)
        self._reference = reference

    def select(
        self, pool: list[FrozenTrial], directions: Sequence[StudyDirection], generation: int
    ) -> list[FrozenTrial]:
        """The `population` survivors of a pool; ties are broken by random numbers of the generation's own.

        Optuna's selection takes the lowest values for the ideal point, so it sees losses.
        """
        losses = []
        for index, trial in enumerate(pool):
            loss = copy.copy(trial)
            signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
            loss.values = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
            loss.number = index
            losses.append(loss)
        seed = (self._context.run_seed * 1_000_003 + generation) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            chooser = NSGAIIISampler(population_size=self._population, reference_points=self._reference, seed=seed)
        seen = view(losses, [StudyDirection.MINIMIZE] * len(directions))
        return [pool[loss.number] for loss in chooser._elite_population_selection_strategy(seen, losses)]


def spread_points(objectives: int, divisions: int) -> NDArray[np.float64]:
    """All points [n x objectives] with coordinates in steps of 1 / divisions that sum to 1 (section IV.B)."""
    rows = [
        np.bincount(choice, minlength=objectives) / divisions
        for choice in combinations_with_replacement(range(objectives), divisions)
    ]
    return np.array(rows)


def _divisions(objectives: int, population: int) -> int:
    """The fewest that give at least as many points as the population has members."""
    if objectives == 1:
        return 1
    divisions = 1
    while math.comb(objectives + divisions - 1, divisions) < population:
        divisions += 1
    return divisions


@sampler("nsga3")
def nsga3(
    context: SamplerContext,
    *,
    population: Annotated[int, Field(ge=2)] = POPULATION,
    reference_points: Annotated[int, Field(ge=1)] | Points | None = None,
) -> BaseSampler:
    """NSGA-III, replayed from the trials before each proposal.

    Args:
        context: of the trial.
        population: trials of a generation.
        reference_points: directions to prefer, one number for each objective: how much may be lost in it compared
            with the others; or in how many steps each axis is divided to spread them evenly. By default so many that
            there are as many directions as members.

    Raises:
        InputError: a direction has not one number for each objective, or has zeros alone.
    """
    if isinstance(reference_points, list):
        fitting = [len(point) == context.objectives and any(point) for point in reference_points]
        if not fitting or not all(fitting):
            raise InputError(
                f"{SECTION}.reference_points must be points of {context.objectives} numbers that are not all 0, one "
                f"for each objective, but got {reference_points!r}"
            )
        return ReferencePointSampler(context, population, np.array(reference_points))
    divisions = reference_points or _divisions(context.objectives, population)
    return ReferencePointSampler(context, population, spread_points(context.objectives, divisions))
