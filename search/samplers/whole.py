"""What samplers of evomerge's have in common: they propose whole points."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from evomerge.search.sampling import SamplerContext
from evomerge.spaces import METHOD

DRAWS = 20  # after so many points that exist already, a random one


class WholePointSampler(BaseSampler):
    """Proposes a value for each dimension of the point's method at once.

    Args:
        context: of one trial.
    """

    def __init__(self, context: SamplerContext) -> None:
        self._context = context

    @abstractmethod
    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The point of a trial that is not in the study yet.

        Args:
            study: to read finished and running trials from; must not be written to.
            trial: has the number.
        """

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space."""
        return dict(self._context.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole point; see `propose`."""
        return self.propose(study, trial)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The entry of a whole point."""
        return self.propose(study, trial)[param_name]


def names_of(context: SamplerContext, point: dict[str, Any]) -> list[str]:
    """The dimensions of the point's method, the choice of the method included, in the space's order."""
    if METHOD not in context.distributions or context.space is None:
        return list(context.distributions)
    own = {METHOD, *(dimension.name for dimension in context.space.dimensions(str(point[METHOD])))}
    return [name for name in context.distributions if name in own]


def shared_names(context: SamplerContext) -> list[str]:
    """The dimensions that every method has, the choice of the method included, in the space's order."""
    if METHOD not in context.distributions or context.space is None:
        return list(context.distributions)
    of_each = [{dimension.name for dimension in context.space.dimensions(name)} for name in context.space.methods]
    shared = {METHOD}.union(set.intersection(*of_each))
    return [name for name in context.distributions if name in shared]


def completed(
    context: SamplerContext, study: optuna.Study, trial: FrozenTrial, point: dict[str, Any], source: BaseSampler
) -> dict[str, Any]:
    """The point, with what it lacks of its method's dimensions drawn from `source` one by one."""
    whole = dict(point)

    def draw(name: str) -> None:
        if name not in whole:
            whole[name] = source.sample_independent(study, trial, name, context.distributions[name])

    if METHOD in context.distributions:
        draw(METHOD)
    names = names_of(context, whole)
    for name in names:
        draw(name)
    return {name: whole[name] for name in names}


def random_point(context: SamplerContext, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    """A uniform draw from the trial's own random numbers."""
    return completed(context, study, trial, {}, RandomSampler(seed=context.seed))
