"""Genetic algorithms whose generations are a pure function of the study's trials: no state of them is stored."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.mirror import view, whole_point, with_whole_point
from evomerge.search.samplers.whole import DRAWS, WholePointSampler, completed, names_of, random_point
from evomerge.search.sampling import SamplerContext, finished_trials

POPULATION = 16  # of 60 trials this leaves three generations that descend from others


class GenerationSampler(WholePointSampler):
    """Children of the best of all whole generations, in Optuna's form of the algorithm.

    A generation is the next `population` trials with values, warm starts included, in the order in which they were
    told; Optuna's own counts with attributes that it writes as it goes, and waits for the slowest. The first one is
    uniform. Children come from simulated binary crossover (Deb and Agrawal 1995) and polynomial mutation, which stay
    inside of the box. The choice of a method is a gene that is inherited from either parent and mutates to any; a
    parent of another method has random genes in the dimensions that it lacks.

    Args:
        context: of one trial.
        population: trials of a generation.
    """

    def __init__(self, context: SamplerContext, population: int = POPULATION) -> None:
        super().__init__(context)
        self._population = population

    def select(
        self, pool: list[FrozenTrial], directions: Sequence[StudyDirection], generation: int
    ) -> list[FrozenTrial]:
        """The `population` survivors of a pool, by NSGA-II (Deb et al. 2002, IEEE TEC 6(2), section III).

        Args:
            pool: a generation and the survivors before it.
            directions: of the objectives.
            generation: its number, from 0.
        """
        return self._algorithm(self._context.seed)._elite_population_selection_strategy(view(pool, directions), pool)

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """A child that is not yet there; a random point in the first generation."""
        finished = finished_trials(study)
        parents = self._parents(finished, study.directions)
        if not parents:
            return random_point(self._context, study, trial)
        known = [whole_point(other) for other in finished]
        algorithm = self._algorithm(self._context.seed)
        family = view(parents, study.directions)
        for _ in range(DRAWS):
            genes = algorithm._child_generation_strategy(family, dict(self._context.distributions), parents)
            child = completed(self._context, family, trial, genes, algorithm)
            if child not in known:
                return child
        return random_point(self._context, study, trial)

    def _parents(self, finished: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
        pool = [
            trial for trial in finished if trial.state == TrialState.COMPLETE and self._is_whole(whole_point(trial))
        ]
        parents: list[FrozenTrial] = []
        for generation in range(len(pool) // self._population):
            start = generation * self._population
            parents = self.select([*pool[start : start + self._population], *parents], directions, generation)
        return [self._with_every_gene(trial) for trial in parents]

    def _is_whole(self, point: dict[str, Any]) -> bool:
        try:
            return set(names_of(self._context, point)) <= set(point)
        except KeyError:
            return False

    def _with_every_gene(self, trial: FrozenTrial) -> FrozenTrial:
        other = with_whole_point(trial, self._context.distributions)
        missing = [name for name in self._context.distributions if name not in other.params]
        if missing:
            rng = np.random.default_rng((self._context.run_seed, trial.number))
            for name in missing:
                distribution = self._context.distributions[name]
                low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
                value = rng.uniform(low, high)
                other.params[name] = distribution.to_external_repr(round(value) if isinstance(low, int) else value)
                other.distributions[name] = distribution
        return other

    def _algorithm(self, seed: int) -> NSGAIISampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return NSGAIISampler(
                population_size=self._population,
                crossover=SBXCrossover(),
                mutation=PolynomialMutation(),
                crossover_prob=1.0,
                seed=seed,
            )
