"""A search from coarse to fine: which stage the next candidate belongs to, and what it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from evomerge.evaluators import TaskMetric
from evomerge.search.acquisition import Proposal, expected_improvement, propose
from evomerge.search.beliefs import AT_LEAST, Model, numbers_of, of_method, unit_point
from evomerge.search.features import Floats
from evomerge.search.stages import Stage, stages
from evomerge.search.study import CONSTRAINTS, NOISE, is_estimated
from evomerge.spaces import Space

STAGE = "stage"  # of a trial: a `Step` as plain numbers
WORTH = 0.1  # of the noise: a stage whose candidates promise less improvement is over
PATIENCE = 2  # candidates in a row that promise too little
BOLDNESS = 2.5  # a surrogate is too sure of itself where it has few points for many numbers
BASES = 5  # good points that candidates start from
SPREAD = 3  # points for each number of the first stage, spread evenly before the surrogate is asked
SHARE = 0.4  # of the trials left that a stage may use, unless it is the last


@dataclass(frozen=True)
class Step:
    """Where in the curriculum a trial was proposed.

    Attributes:
        index: of the stage among those of the method, from 0.
        name: of the stage.
        begun: number of the stage's first trial.
        method: of the candidate.
        improvement: how much better than the best the candidate was expected to be; None: there was nothing to expect
            it from, as for the points that the first stage is spread over with.
    """

    index: int
    name: str
    begun: int
    method: str
    improvement: float | None


class Choice(NamedTuple):
    """The next candidate: its method, and its point in unit coordinates in the order of the method's numbers."""

    method: str
    point: Floats


class Curriculum:
    """Chooses the next candidate from the trials so far, and from nothing else.

    The stages are those of `stages`. Each one's candidates start from the best of all before, as a surrogate with
    known noise sees it, and are those with the largest expected improvement. A stage is over when that is below a
    tenth of the noise for two candidates in a row, or when it has used its share of the trials left. The method, where
    there is a choice, is decided in the first stage, whose candidates are of whichever method promises most.

    Args:
        space: to search.
        finished: trials with values, in the order of telling.
        values: their objectives.
        tasks: what is measured.
        running: other trials under way.
        trials: how many there will be in all.
        seed: of the run.
        explain: is told of decisions, in one line each.
        keep: is told what to keep with the trial.
    """

    def __init__(
        self,
        space: Space,
        finished: Sequence[FrozenTrial],
        values: Floats,
        tasks: Sequence[TaskMetric],
        running: Sequence[FrozenTrial],
        trials: int,
        seed: int,
        explain: Callable[[str], None],
        keep: Callable[[str, Any], None],
    ) -> None:
        self._space = space
        self._finished, self._values, self._running = list(finished), values, list(running)
        self._tasks = tasks
        self._trials, self._seed = trials, seed
        self._explain, self._keep = explain, keep
        self._noise = noise_of(finished)
        self._models: dict[str, Model | None] = {}
        self._own = {method: of_method(space, method, finished) for method in space.methods}

    def next(self, number: int, generator: np.random.Generator) -> Choice:
        """The candidate of trial `number`."""
        trials = [trial for trial in [*self._finished, *self._running] if STAGE in trial.user_attrs]
        staged = {trial.number: Step(**trial.user_attrs[STAGE]) for trial in trials}
        last = max(staged.values(), key=lambda step: step.index, default=None)
        index, begun = (last.index, last.begun) if last else (0, number)
        method = last.method if last and index else self._best_method()
        own = self._stages(method)
        if last is None:
            self._tell(own[0], number, own[0].name == own[-1].name, "the search begins")
        while index + 1 < len(own):
            of_stage = [staged[each] for each in sorted(staged) if staged[each].index == index]
            why = self._why_over(of_stage, begun, number)
            if not why:
                break
            index, begun = index + 1, number
            self._tell(own[index], number, index + 1 == len(own), why)
        spread = sum(step.improvement is None for step in staged.values())
        if index == 0 and spread < self._to_spread:
            method = self._space.methods[spread % len(self._space.methods)]
            point, promise = self._spread(method, spread // len(self._space.methods)), None
        else:
            candidates = self._space.methods if index == 0 else (method,)
            found = {each: self._propose(each, index, generator) for each in candidates}
            method = max(candidates, key=lambda each: found[each].improvement)
            point, promise = found[method]
        told = promise if promise is not None and np.isfinite(promise) else None  # JSON has no infinity
        self._keep(STAGE, asdict(Step(index, own[index].name, begun, method, told)))
        return Choice(method, point)

    @property
    def _to_spread(self) -> int:
        """How many points the first stage begins with, over all methods; a quarter of the trials at most."""
        sizes = [self._stages(method)[0].size for method in self._space.methods]
        return min(SPREAD * sum(sizes), self._trials // 4)

    def _spread(self, method: str, place: int) -> Floats:
        """A point of a scrambled Sobol sequence (Owen 1998) over the span of the first stage."""
        stage = self._stages(method)[0]
        sequence = qmc.Sobol(stage.size, scramble=True, rng=self._seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a number of points is no power of two
            return np.asarray(stage.origin + sequence.random(place + 1)[-1] @ stage.directions)

    def _why_over(self, steps: Sequence[Step], begun: int, number: int) -> str:
        """Why a stage with these trials so far is over; "" where it is not."""
        share = max(int(SHARE * (self._trials - begun)), 1)
        if len(steps) >= share:
            return f"the last stage has used its share of {share} trials"
        promises = [np.inf if step.improvement is None else step.improvement for step in steps[-PATIENCE:]]
        if len(promises) == PATIENCE and max(promises) < WORTH * self._noise:
            return f"the last stage promises {max(promises):.4f} more, below {WORTH:g} of the noise, {self._noise:.4f}"
        return ""

    def _propose(self, method: str, index: int, generator: np.random.Generator) -> Proposal:
        stage = self._stages(method)[min(index, len(self._stages(method)) - 1)]
        model = self._model(method)
        if model is None:
            return Proposal(stage.origin + generator.random(stage.size) @ stage.directions, np.inf)
        believed = model.observed().mean
        best = float(np.max(np.where(self._is_kept(method), believed, -np.inf)))
        order = np.argsort(-(believed if np.isfinite(best) else model.feasible(model.points)), kind="stable")

        def score(points: Floats) -> Floats:
            likely = model.feasible(points)
            if not np.isfinite(best):
                return likely
            found = model.posterior(points)
            return expected_improvement(found._replace(sd=BOLDNESS * found.sd), best) * likely

        point, _ = propose(stage, model.points[order[:BASES]], score, generator)
        promise = float(expected_improvement(model.posterior(point[None]), best)[0]) if np.isfinite(best) else np.inf
        return Proposal(point, promise)

    def _is_kept(self, method: str) -> Floats:
        """Whether the constraints are, by each of the method's trials."""
        return np.array(
            [
                all(violation <= 0 for violation in trial.user_attrs.get(CONSTRAINTS, {}).values())
                for trial in self._own[method]
            ]
        )

    def _model(self, method: str) -> Model | None:
        """None where too few trials are known."""
        if method not in self._models:
            own = self._own[method]
            known = {trial.number: value for trial, value in zip(self._finished, self._values, strict=True)}
            self._models[method] = None
            if len(own) >= AT_LEAST:
                dimensions = numbers_of(self._space, method)
                values = np.array([known[trial.number] for trial in own])
                model = Model(dimensions, own, values, self._tasks)
                pending = of_method(self._space, method, self._running)
                model.believe_in(np.array([unit_point(dimensions, trial.params) for trial in pending]))
                self._models[method] = model
        return self._models[method]

    def _stages(self, method: str) -> tuple[Stage, ...]:
        return stages(numbers_of(self._space, method))

    def _best_method(self) -> str:
        """Of the trial that is believed to be the best, by Deb's rule."""
        if len(self._space.methods) == 1:
            return self._space.methods[0]
        tops: dict[str, float] = {}
        for method in self._space.methods:
            model = self._model(method)
            kept = self._is_kept(method)
            if model is not None and kept.any():
                tops[method] = float(model.observed().mean[kept].max())
        return max(tops, key=lambda method: tops[method], default=self._space.methods[0])

    def _tell(self, stage: Stage, number: int, is_last: bool, why: str) -> None:
        left = self._trials - number
        share = f"at most {max(int(SHARE * left), 1)} of " if not is_last else ""
        budget = f"{share}the {left} trials left"
        self._explain(f"stage {stage.name}: {stage.size} numbers, {budget}; {why}")


def noise_of(trials: Sequence[FrozenTrial]) -> float:
    """The standard error of a full score as that of a sample of documents: the median over fully scored trials."""
    full = [trial for trial in trials if NOISE in trial.user_attrs and not is_estimated(trial)]
    noises = [float(trial.user_attrs[NOISE]) for trial in full]
    return float(np.median(noises)) if noises else 0.0


def first_stage_is_open(space: Space, trials: Sequence[FrozenTrial], most: int) -> bool:
    """Whether the first of several stages still goes on, in the first half of `most` trials.

    What refines single numbers, such as the gradient, starts from better candidates after it.
    """
    several = any(len(stages(numbers_of(space, method))) > 1 for method in space.methods)
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    later = any(int(trial.user_attrs.get(STAGE, {"index": 0})["index"]) > 0 for trial in begun)
    return several and not later and len(begun) < most / 2
