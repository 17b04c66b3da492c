"""`search.stop: auto`: ends a search when what more trials can bring is lost in the noise of the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.acquisition import expected_improvement, propose
from evomerge.search.attributes import set_once
from evomerge.search.beliefs import AT_LEAST, Model, beliefs, numbers_of, of_method
from evomerge.search.curriculum import STAGE
from evomerge.search.problem import Problem
from evomerge.search.sampling import finished_trials
from evomerge.search.stages import Stage, stages
from evomerge.search.study import NOISE, ORIGIN, full_trials, trial_objective, trial_violation

STOPPED = "evomerge:stopped"  # why the search ended before its last trial

LEAST = 20  # finished trials, before anything is said
_PROPOSED = 10  # of them proposed by the sampler
_PATIENCE = 5  # trials in a row after each of which the rule has to hold
_BASES = 5  # good candidates, near which the most promising one is looked for
_SHARE = 0.25  # of the standard error: a gain below it is not worth the rest of the trials
_NEXT = 0.5  # of the standard error: an improvement below it is not worth the next one


class Stopping:
    """Says after each trial whether the rest of them is worth it.

    Two estimates of what the rest can add have to be small next to the standard error of a good candidate's score
    (NOISE), since such a gain could not be told from luck.

    The record, after t trials, is the highest expected objective (`beliefs`) among them: what the search would ship.
    Records grow with the logarithm of the number of trials where candidates are drawn from one distribution, and more
    slowly in a search that has converged: the growth from t / 2 trials to t, per doubling, times the doublings that are
    left, is what the rest can be expected to add. That has to be below a quarter of the standard error after each of
    the last 5 trials.

    A search that has only begun to learn has a record that does not grow, either. Therefore the improvement to be
    expected of the most promising candidate there is (`acquisition.expected_improvement`, by the surrogate that
    `beliefs` come from) has to be below half of it. Where a space has no surrogate, as stacks have none, half of the
    trials have to be finished instead. A search from coarse to fine is not ended before its last stage.

    It is a function of the database and of the number of trials to reach, so a resumed search stops where an
    uninterrupted one does.

    Args:
        problem: with the space and the tasks.
        study: of the search.
        trials: how many there will be in all; by default what the configuration says.

    Attributes:
        is_first: whether no other worker had said so before this one did.
    """

    def __init__(self, problem: Problem, study: optuna.Study, trials: int | None = None) -> None:
        self._problem = problem
        self._study = study
        self.is_first = False
        self._trials = trials or problem.config.search.trials

    def why(self, finished: int) -> str:
        """Why no further trial is worth it after `finished` ones, with the numbers; "" to go on.

        "", too, unless `search.stop` is "auto", and for the objective pareto, whose front has no single record. The
        study keeps what is said, and whoever asks later is told the same.
        """
        config = self._problem.config
        if config.search.stop is None or config.evaluate.objective == "pareto":
            return ""
        if said := str(self._study.user_attrs.get(STOPPED, "")):
            return said
        if not LEAST <= finished < self._trials:
            return ""
        trials = finished_trials(self._study)[:finished]
        if sum(ORIGIN not in trial.user_attrs for trial in trials) < _PROPOSED:
            return ""
        if not self._in_last_stage(trials):
            return ""
        noise = self._noise()
        if not noise > 0:
            return ""
        record = self._record(trials)
        gains = [expected_gain(record[:end], self._trials) for end in range(finished - _PATIENCE + 1, finished + 1)]
        if not max(gains) < _SHARE * noise or not self._promise(trials, float(record[-1])) < _NEXT * noise:
            return ""
        said = (
            f"stopped after {finished} of {self._trials} trials: the other {self._trials - finished} are expected to "
            f"add {gains[-1]:.4f} to the objective, which scores of this many documents, with a standard error of "
            f"{noise:.4f}, cannot tell from luck"
        )
        self.is_first = set_once(self._study, STOPPED, said)
        return said

    def _in_last_stage(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether a search from coarse to fine has tried the finest of its stages for a while; True for any other."""
        staged = [trial.user_attrs[STAGE] for trial in trials if STAGE in trial.user_attrs]
        if not staged:
            return True
        method = staged[-1]["method"]
        last = len(stages(numbers_of(self._problem.space, method))) - 1
        return all(step["index"] >= last and step["method"] == method for step in staged[-_PATIENCE:])

    def _record(self, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
        """The highest expected objective among the first 1, 2, ... trials that keep the constraints; -inf before."""
        believed = beliefs(self._study, self._problem.space, self._problem.evaluator.tasks)
        means = [
            believed[trial.number].mean if trial.number in believed and trial_violation(trial) == 0 else -math.inf
            for trial in trials
        ]
        return np.maximum.accumulate(np.array(means))

    def _promise(self, trials: Sequence[FrozenTrial], best: float) -> float:
        """By how much the most promising candidate of any method is expected to beat `best`; infinite where unknown."""
        space, tasks = self._problem.space, self._problem.evaluator.tasks
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        models = []
        for method in space.methods:
            own, dimensions = of_method(space, method, complete), numbers_of(space, method)
            if len(own) >= AT_LEAST and dimensions:
                models.append(Model(dimensions, own, np.array([trial_objective(trial, tasks) for trial in own]), tasks))
        if not models:
            return 0.0 if len(trials) >= self._trials / 2 else math.inf
        return max(_most_promising(model, best, len(trials)) for model in models)

    def _noise(self) -> float:
        """The standard error of a good candidate: the median over the better half of those scored in full."""
        full = [trial for trial in full_trials(self._study) if NOISE in trial.user_attrs]
        ranked = sorted(full, key=lambda trial: (-trial.values[0], trial.number))
        better = [float(trial.user_attrs[NOISE]) for trial in ranked[: math.ceil(len(ranked) / 2)]]
        return float(np.median(better)) if better else math.nan


def _most_promising(model: Model, best: float, seed: int) -> float:
    size = model.points.shape[1]
    bases = model.points[np.argsort(-model.observed().mean, kind="stable")[:_BASES]]

    def score(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return expected_improvement(model.posterior(points), best) * model.feasible(points)

    whole = Stage("every number", np.eye(size), np.zeros(size), is_global=True)
    return propose(whole, bases, score, np.random.default_rng(seed)).improvement


def expected_gain(record: NDArray[np.float64], trials: int) -> float:
    """By how much the record can be expected to grow until there are `trials`.

    Args:
        record: after each of n trials; never falls.
        trials: at least n.

    Returns:
        The growth over the last doubling of n times log2(trials / n); infinite where the record began within it.
    """
    count = len(record)
    begin = record[math.ceil(count / 2) - 1]
    if not math.isfinite(begin):
        return math.inf
    return float(record[-1] - begin) * math.log2(trials / count)
