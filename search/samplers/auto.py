"""The default for one objective: a curriculum from one number per expert to every number, then the gates."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.beliefs import numbers_of
from evomerge.search.box import UnitCube
from evomerge.search.curriculum import Curriculum
from evomerge.search.samplers.nsga2 import nsga2
from evomerge.search.samplers.whole import WholePointSampler
from evomerge.search.sampling import SamplerContext, in_order_of_telling, require_one_objective, sampler
from evomerge.search.study import trial_objective
from evomerge.spaces import Space

BEFORE_GATES = 0.5  # of the trials, before the choice of layers is searched, too


class CurriculumSampler(WholePointSampler):
    """Proposes what `Curriculum` chooses.

    Where the space has gates, the numbers are searched with each layer once and in order; then a genetic algorithm,
    whose first parents those candidates are, goes on over gates and numbers together.

    Args:
        context: with a space, and one objective.
    """

    def __init__(self, context: SamplerContext) -> None:
        require_one_objective("auto", context)
        super().__init__(context)

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """A point with every number of its method."""
        context, space = self._context, self._space
        has_gates = any(each.is_gate for method in space.methods for each in space.dimensions(method))
        turn = int(BEFORE_GATES * context.trials)
        if has_gates and trial.number >= turn:
            if trial.number == turn:
                left = context.trials - turn
                context.explain(f"stage gates: nsga2 over all numbers and gates for the {left} trials left")
            point: dict[str, Any] = nsga2(context).sample_relative(study, trial, dict(context.distributions))
            return point
        there = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number and each.params]
        finished = in_order_of_telling([each for each in there if each.state == TrialState.COMPLETE])
        running = [each for each in there if each.state == TrialState.RUNNING]
        values = np.array([trial_objective(each, context.tasks) for each in finished])
        trials = turn if has_gates else context.trials
        curriculum = Curriculum(
            space, finished, values, context.tasks, running, trials, context.run_seed, context.explain, context.keep
        )
        method, coordinates = curriculum.next(trial.number, np.random.default_rng(context.seed))
        point = dict(space.constant(method, {})[0])  # layers once and in order, where they can be chosen
        names = [each.name for each in numbers_of(space, method)]
        cube = UnitCube("auto", {name: context.distributions[name] for name in names})
        return point | cube.point(coordinates)

    @property
    def _space(self) -> Space:
        if self._context.space is None:
            raise ValueError("a curriculum must know the space, but the context has none")
        return self._context.space


@sampler("auto")
def auto(context: SamplerContext) -> BaseSampler:
    """A curriculum over the space; see search/curriculum.py."""
    return CurriculumSampler(context)
