"""Samplers as functions of a study's history, so that a resumed study proposes what an uninterrupted one would have.

Every trial gets a sampler built anew from the run's seed and the trial's number. What a sampler proposes then depends
on the trials before it and on nothing that a process holds in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from evomerge.errors import InputError
from evomerge.evaluators import Scores, TaskMetric
from evomerge.registry import Registry
from evomerge.search.study import TOLD
from evomerge.spaces import METHOD, Space

PROPOSAL = "evomerge:proposal"  # system attribute: a value for every dimension of the trial's method
ENQUEUED = "fixed_params"  # the same of a trial that somebody enqueued through Optuna


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler for one trial is built from.

    Attributes:
        run_seed: the same for every trial of a run.
        number: of the trial, counted from 0.
        distributions: every dimension of the space by name.
        objectives: how many values a trial has.
        options: keyword arguments from the configuration.
        space: that the distributions are of; None where only they are known.
        tasks: what is measured.
        trials: how many there will be in all.
        scores: gives the document scores on `search` of a trial.
        explain: is told, in one line, of a decision behind the proposal.
        keep: is told a name and a plain value that stay with the trial as a user attribute.
        draw: counts the proposals for this trial; above 0 where the ones before were the points of other trials.
    """

    run_seed: int
    number: int
    distributions: Mapping[str, BaseDistribution]
    objectives: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    space: Space | None = None
    tasks: tuple[TaskMetric, ...] = ()
    trials: int = 100
    scores: Callable[[FrozenTrial], Scores] = lambda trial: Scores()
    explain: Callable[[str], None] = lambda line: None
    keep: Callable[[str, Any], None] = lambda name, value: None
    draw: int = 0

    @property
    def seed(self) -> int:
        """A seed of the trial's own and of the draw, in [0, 2^32)."""
        return (self.run_seed * 1_000_003 + self.number + self.draw * 500_009) % 2**32


SamplerFactory = Callable[[SamplerContext], BaseSampler]
SAMPLERS: Registry[SamplerFactory] = Registry(
    "sampler (search.sampler)", "evomerge.search.samplers", "evomerge.samplers"
)
AUTO = "auto"


def sampler(name: str) -> Callable[[SamplerFactory], SamplerFactory]:
    """Register a function that builds the sampler of one trial as a value of `search.sampler`."""

    def register(factory: SamplerFactory) -> SamplerFactory:
        SAMPLERS.add(name, factory)
        return factory

    return register


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distributions of a space: the choice of the method, if there is one, and every dimension of each."""
    found: dict[str, BaseDistribution] = {}
    if len(space.methods) > 1:
        found[METHOD] = CategoricalDistribution(space.methods)
    for method in space.methods:
        for dimension in space.dimensions(method):
            found[dimension.name] = (
                IntDistribution(0, 1) if dimension.is_gate else FloatDistribution(dimension.low, dimension.high)
            )
    return found


def choose_sampler(name: str, space: Space, trials: int, objectives: int = 1) -> tuple[str, str]:
    """The sampler to use and, in one sentence, why.

    Args:
        name: as the configuration has it.
        space: to search.
        trials: how many there will be.
        objectives: how many values a trial has. Of several, Gaussian processes propose within seconds for up to
            three, while with four 40 dimensions take ten. Constraints do not change the choice: all that learn obey
            them.

    Raises:
        InputError: for a name that is neither "auto" nor a sampler's nor of the form `package.module:Class`.
    """
    from evomerge.search.samplers.making import check_name  # which stands on this module

    if name != AUTO:
        check_name(name)
        return name, "the configuration names it"
    dimensions = max(len(space.dimensions(method)) for method in space.methods)
    if objectives == 1:
        return AUTO, f"one objective, {dimensions} dimensions: a curriculum from one number per expert to all of them"
    size = f"{objectives} objectives, {dimensions} dimensions and {trials} trials"
    if len(space.methods) > 1:
        return "tpe", f"{size}: the space chooses between methods, and a tree-structured model handles choices"
    if dimensions <= 40 and trials <= 300 and objectives <= 3:
        return "gp", f"{size}: a Gaussian process makes the most of each trial"
    return "nsga2", f"{size}: too many for Gaussian processes"


def require_one_objective(name: str, context: SamplerContext) -> None:
    """Raise InputError where a sampler that ranks by one value is to search several objectives."""
    if context.objectives > 1:
        raise InputError(
            f"search.sampler must be one of gp, nsga2, nsga3, tpe for the objective pareto with its "
            f"{context.objectives} values, but got {name!r}, which takes one"
        )


def finished_trials(study: optuna.Study, before: int | None = None) -> list[FrozenTrial]:
    """The finished trials, failed ones included, in the order in which they were told; all, or those below a number."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    below = [trial for trial in trials if before is None or trial.number < before]
    return in_order_of_telling(below)


def in_order_of_telling(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Finished trials in the order in which they were told; with one worker that of their numbers."""
    return sorted(trials, key=lambda trial: (trial.user_attrs.get(TOLD, trial.number), trial.number))
