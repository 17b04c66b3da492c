"""Searches without models, evaluators or a database: trials come from a sampler and are scored by a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.search.mirror import whole_point
from evomerge.search.samplers.making import make_sampler
from evomerge.search.sampling import PROPOSAL, SamplerContext, distributions
from evomerge.search.study import ORIGIN
from evomerge.spaces import METHOD, Space
from tests.search.toy import toy_config, toy_space

TASKS = (TaskMetric("first", "acc"), TaskMetric("second", "acc"))
BEST_AT = (0.75, 0.25)  # in widths of the box, for each task
DOCUMENTS = 24

Point = dict[str, Any]


def box(dimensions: int) -> dict[str, BaseDistribution]:
    return {f"x{index}": FloatDistribution(0.0, 1.2) for index in range(dimensions)}


def losses(point: Point, box: Mapping[str, BaseDistribution]) -> tuple[float, float]:
    """The mean squared distance of the numbers from the best place of each task, in widths of the box."""
    places = np.array(_places(point, box))
    first, second = (float(np.mean((places - best) ** 2)) for best in BEST_AT)
    return first, second


def _places(point: Point, box: Mapping[str, BaseDistribution]) -> list[float]:
    places = []
    for name, value in point.items():
        distribution: Any = box[name]
        if not isinstance(distribution, CategoricalDistribution):
            places.append((value - distribution.low) / (distribution.high - distribution.low))
    return places


class Driver:
    """One study in memory.

    Args:
        sampler: its name.
        space: the box; by default of the toy.
        objectives: 1 or 2.
        ceiling: on the mean place of the numbers, in widths of the box; None: there is no constraint.
        seed: of the run.
        history: finished trials to begin with, as a new process finds them.
        failing: each of so many trials fails; 0: none.
        options: of the sampler.
    """

    def __init__(
        self,
        sampler: str,
        space: Space | None = None,
        *,
        objectives: int = 1,
        ceiling: float | None = None,
        seed: int = 3,
        history: Sequence[FrozenTrial] = (),
        failing: int = 7,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sampler = sampler
        self.space = space or toy_space(toy_config())
        self.distributions = distributions(self.space)
        self.ceiling = ceiling
        self.seed = seed
        self.failing = failing
        self.options = options or {}
        self.notes: list[str] = []
        self.study = optuna.create_study(directions=["maximize"] * objectives)
        for trial in history:
            self.study.add_trial(trial)

    def propose(self, number: int) -> Point:
        """A whole point, the fifth draw a random one if the others exist; nothing in the study changes by it."""
        trials = self.study.get_trials()
        known = [whole_point(trial) for trial in trials]
        before = trials, dict(self.study.user_attrs)
        for draw in range(5):
            point = self._drawn(self.sampler if draw < 4 else "random", number, draw)
            if point not in known:
                break
        assert (self.study.get_trials(), dict(self.study.user_attrs)) == before
        assert not self.study._storage.get_study_system_attrs(self.study._study_id)
        return point

    def _drawn(self, sampler: str, number: int, draw: int) -> Point:
        context = SamplerContext(
            self.seed,
            number,
            self.distributions,
            len(self.study.directions),
            self.options if sampler == self.sampler else {},
            space=self.space,
            tasks=TASKS,
            scores=self.scores,
            explain=self.notes.append,
            draw=draw,
        )
        asking = create_trial(state=TrialState.RUNNING)
        asking.number = number
        made = make_sampler(sampler, context)
        return made.sample_relative(self.study, asking, made.infer_relative_search_space(self.study, asking))

    def run(self, trials: int, starts: Sequence[float] = (0.15, 0.5, 0.85)) -> list[FrozenTrial]:
        """Go on until there are so many trials; in the first ones all numbers are at `starts`, in widths of the box."""
        while (number := len(self.study.get_trials(deepcopy=False))) < trials:
            if number < len(starts):
                self.tell(self._start(starts[number]), user_attrs={ORIGIN: f"start {number}"})
            else:
                self.tell(self.propose(number))
        return self.study.get_trials()

    def tell(self, point: Point, **attributes: Any) -> None:
        number = len(self.study.get_trials(deepcopy=False))
        failed = self.failing and number % self.failing == self.failing - 1
        both = [-loss for loss in losses(point, self.distributions)]
        place = float(np.mean(_places(point, self.distributions)))
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if failed else both[: len(self.study.directions)],
            params=point,
            distributions={name: self.distributions[name] for name in point},
            constraints=None if self.ceiling is None else {"mean": place - self.ceiling},
            system_attrs={PROPOSAL: point},
            **attributes,
        )
        self.study.add_trial(trial)

    def scores(self, trial: FrozenTrial) -> Scores:
        """A document is solved where the candidate's loss in its task is below the document's threshold."""
        both = losses(trial.params, self.distributions)
        return Scores(
            tuple(
                DocumentScore(task.task, f"{index:02}", "acc", float(loss < 0.5 * ((index + 0.5) / DOCUMENTS) ** 2))
                for task, loss in zip(TASKS, both, strict=True)
                for index in range(DOCUMENTS)
            )
        )

    def _start(self, place: float) -> Point:
        method = self.space.methods[0]
        point: Point = {METHOD: method} if METHOD in self.distributions else {}
        for each in self.space.dimensions(method):
            point[each.name] = int(place >= 0.5) if each.is_gate else each.low + place * (each.high - each.low)
        return point


def points(trials: Sequence[FrozenTrial]) -> list[Point]:
    return [trial.params for trial in trials]
