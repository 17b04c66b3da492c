"""The default: a curriculum from one number per expert to every number."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.beliefs import numbers_of
from evomerge.search.curriculum import Curriculum
from evomerge.search.sampling import SamplerContext, finished_trials, sampler
from evomerge.search.study import trial_objective
from evomerge.spaces import METHOD, Space


class CurriculumSampler(BaseSampler):
    """Proposes what `Curriculum` chooses.

    Args:
        context: with a space, and one objective.
    """

    def __init__(self, context: SamplerContext) -> None:
        self._context = context

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._context.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point with the numbers of its method."""
        context, space = self._context, self._space
        finished = [each for each in finished_trials(study, trial.number) if each.state == TrialState.COMPLETE]
        running = [
            each
            for each in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if each.number != trial.number and each.params
        ]
        values = np.array([trial_objective(each, context.tasks) for each in finished])
        curriculum = Curriculum(space, finished, values, running, context.trials, context.explain, context.keep)
        method, point = curriculum.next(trial.number, np.random.default_rng(context.seed))
        numbers = {
            dimension.name: min(
                max(dimension.low + (dimension.high - dimension.low) * float(at), dimension.low), dimension.high
            )
            for dimension, at in zip(numbers_of(space, method), point, strict=True)
        }
        return ({METHOD: method} if len(space.methods) > 1 else {}) | numbers

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The entry of a whole proposal."""
        return self.sample_relative(study, trial, dict(self._context.distributions))[param_name]

    @property
    def _space(self) -> Space:
        if self._context.space is None:
            raise ValueError("a curriculum must know the space, but the context has none")
        return self._context.space


@sampler("auto")
def auto(context: SamplerContext) -> BaseSampler:
    """A curriculum over the space."""
    return CurriculumSampler(context)
