"""NSGA-II whose generations are a pure function of the study's trials: the database holds no state of it."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation, SBXCrossover
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.box import UnitCube
from evomerge.search.sampling import SamplerContext, finished_trials, sampler

POPULATION = 16  # of 60 trials this leaves three generations that descend from others
DRAWS = 20  # after so many children that exist already, a random point


class ReplayedNsga2(NSGAIISampler):
    """Optuna's NSGA-II (Deb et al. 2002, IEEE TEC 6(2); constraints as in its section VI), replayed for each trial.

    A generation is the next `POPULATION` trials with values, warm starts included, in order of their numbers; Optuna's
    own counts with attributes that it writes as it goes. Children come from simulated binary crossover (Deb and
    Agrawal 1995) and polynomial mutation, which stay inside of the box.

    Args:
        context: of one trial; all dimensions must be numbers.
    """

    def __init__(self, context: SamplerContext) -> None:
        UnitCube("nsga2", context.distributions)
        self._context = context
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(
                population_size=POPULATION,
                crossover=SBXCrossover(),
                mutation=PolynomialMutation(),
                crossover_prob=1.0,
                seed=context.seed,
            )

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._context.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A child that is not yet there; {} in the first generation, whose points are random."""
        known = [other.params for other in finished_trials(study, trial.number)]
        for _ in range(DRAWS):
            child = super().sample_relative(study, trial, search_space)
            if child not in known:
                return child
        return {}

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """How many whole generations lie before the trial."""
        return len(self._with_values(study)) // POPULATION

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """The trials of a generation."""
        return self._with_values(study)[generation * POPULATION : (generation + 1) * POPULATION]

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """The best of all generations before this one, selected one after another."""
        return self.select_parent(study, generation) if generation else []

    def _with_values(self, study: optuna.Study) -> list[FrozenTrial]:
        names = set(self._context.distributions)
        return [
            trial
            for trial in finished_trials(study, self._context.number)
            if trial.state == TrialState.COMPLETE and names <= set(trial.params)
        ]


@sampler("nsga2")
def nsga2(context: SamplerContext) -> BaseSampler:
    """NSGA-II with 16 candidates a generation, replayed from the trials before each proposal."""
    return ReplayedNsga2(context)
