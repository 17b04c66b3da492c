"""A diversity archive: candidates compete for documents, so that its members cover different skills.

(M2N2: Abrantes, Lange and Tang, Competition and Attraction Improve Model Fusion, 2508.16204, sections 3.2 and 3.3.)
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import optuna
from numpy.random import Generator
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from pydantic import Field

from evomerge.search.archive import Archive, replay_archive
from evomerge.search.mirror import whole_point
from evomerge.search.samplers.whole import DRAWS, WholePointSampler, names_of, random_point
from evomerge.search.sampling import SamplerContext, finished_trials, require_one_objective, sampler
from evomerge.spaces import METHOD

CAPACITY = 16
STEP = 0.1  # standard deviation of a mutation, in widths of the bounds


class NicheSampler(WholePointSampler):
    """A child of two members of the archive: the first fit, the second good at what the first is not.

    Until `capacity` trials are told, and while the archive is empty, proposals are uniform.

    Args:
        context: of one trial; `tasks` and `scores` must be there, and one objective.
        capacity: members of the archive.
        alpha: how strongly members compete for a document; 0: not at all, which is a plain genetic algorithm.
    """

    def __init__(self, context: SamplerContext, capacity: int, alpha: float) -> None:
        require_one_objective("niches", context)
        super().__init__(context)
        self._capacity = capacity
        self._alpha = alpha

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """A child that no trial is yet."""
        finished = finished_trials(study)
        if len(finished) < self._capacity:
            return random_point(self._context, study, trial)
        archive = replay_archive(study, self._context.scores, self._context.tasks, self._capacity, self._alpha)
        if not archive.members:
            return random_point(self._context, study, trial)
        known = [whole_point(other) for other in finished]
        rng = np.random.default_rng(self._context.seed)
        for _ in range(DRAWS):
            child = self._child(archive, rng)
            if child not in known:
                return child
        return random_point(self._context, study, trial)

    def _child(self, archive: Archive, rng: Generator) -> dict[str, Any]:
        one, two = archive.parents(rng)
        first, second = (whole_point(archive.members[index]) for index in (one, two))
        ratio = rng.uniform()
        point = {METHOD: (first if rng.uniform() < ratio else second)[METHOD]} if METHOD in first else {}
        self._mutate_choice(point, rng)
        names = names_of(self._context, point)
        depth = self._depths()
        levels = sorted({depth.get(name, 0) for name in names})
        cut = rng.choice(levels[1:]) if levels[1:] else levels[-1] + 1
        child = {
            name: point[name]
            if name == METHOD
            else self._gene(name, first, second, ratio if depth.get(name, 0) < cut else 1 - ratio, rng)
            for name in names
        }
        return self._mutated(child, rng)

    def _depths(self) -> dict[str, int]:
        """Where in the model each dimension acts: the basis function over depth; what is outside of layers first."""
        space = self._context.space
        if space is None:
            return {name: index for index, name in enumerate(self._context.distributions)}
        every = [dimension for method in space.methods for dimension in space.dimensions(method)]
        return {each.name: each.column if each.modules or each.is_gate else -1 for each in every}

    def _gene(self, name: str, first: dict[str, Any], second: dict[str, Any], ratio: float, rng: Generator) -> Any:
        """`ratio` of the first and the rest of the second; of a gate one of them; at random where neither has it."""
        distribution: Any = self._context.distributions[name]
        is_gate = isinstance(distribution, IntDistribution)
        if name not in first and name not in second:
            return int(rng.integers(2)) if is_gate else float(rng.uniform(distribution.low, distribution.high))
        one = first[name] if name in first else second[name]
        two = second[name] if name in second else first[name]
        if is_gate:
            return int(one if ratio >= 0.5 else two)
        return float(min(max(ratio * one + (1 - ratio) * two, distribution.low), distribution.high))

    def _mutate_choice(self, point: dict[str, Any], rng: Generator) -> None:
        distribution = self._context.distributions.get(METHOD)
        if isinstance(distribution, CategoricalDistribution) and rng.uniform() < 1 / len(self._context.distributions):
            point[METHOD] = distribution.choices[rng.integers(len(distribution.choices))]

    def _mutated(self, child: dict[str, Any], rng: Generator) -> dict[str, Any]:
        """One dimension in the mean moves by a normal step, reflected at the bounds; a gate flips."""
        names = [name for name in child if name != METHOD]
        for name in names:
            if rng.uniform() >= 1 / len(names):
                continue
            distribution: Any = self._context.distributions[name]
            if isinstance(distribution, IntDistribution):
                child[name] = 1 - child[name]
                continue
            width = distribution.high - distribution.low
            at = (child[name] - distribution.low) / width + STEP * rng.standard_normal()
            reflected = 1 - abs(1 - at % 2)
            child[name] = float(min(max(distribution.low + width * reflected, distribution.low), distribution.high))
        return child


@sampler("niches")
def niches(
    context: SamplerContext,
    *,
    capacity: Annotated[int, Field(ge=2)] = CAPACITY,
    alpha: Annotated[float, Field(ge=0)] = 1.0,
) -> BaseSampler:
    """A diversity archive replayed from the trials before each proposal.

    Members need the scores of whole candidates. A race that compares candidates by the objective stops specialists,
    which then have no place in the archive: search with `evaluate.racing: false`.

    Args:
        context: of the trial.
        capacity: members of the archive.
        alpha: how strongly members compete for a document; 0: not at all.
    """
    return NicheSampler(context, capacity, alpha)
