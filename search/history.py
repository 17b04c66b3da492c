"""What the finished trials of a study say, for decisions on the next one: a function of the database alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from evomerge.evaluators import Scores, TaskMetric
from evomerge.evaluators.objective import combine
from evomerge.search.ledger import Ledger
from evomerge.search.pareto import dominates, front
from evomerge.search.problem import Problem
from evomerge.search.proxy import Fit, Pair, fit
from evomerge.search.sampling import in_order_of_telling
from evomerge.search.study import CONSTRAINTS, DIGEST, full_trials, trial_violation


class History:
    """The fully scored trials before one.

    Args:
        problem: says what is measured.
        study: with the trials.
        ledger: with their document scores.
        number: of the trial to decide on; all others that are finished count, in the order of telling.
        cache: of scores by recipe digest, kept by the caller over trials.
    """

    def __init__(
        self, problem: Problem, study: optuna.Study, ledger: Ledger, number: int, cache: dict[str, Scores]
    ) -> None:
        self._tasks = problem.evaluator.tasks
        self._proxies = problem.evaluator.proxies
        self._kind = problem.config.evaluate.objective
        self._ledger = ledger
        self._cache = cache
        self.full = [trial for trial in in_order_of_telling(full_trials(study)) if trial.number != number]

    def scores(self, trial: FrozenTrial) -> Scores:
        """All the trial's document scores on `search`, those by stand-ins included."""
        digest = str(trial.user_attrs[DIGEST])
        if digest not in self._cache:
            self._cache[digest] = Scores(tuple(self._ledger.scores(digest, "search")))
        return self._cache[digest]

    def violations(self, trial: FrozenTrial) -> dict[str, float]:
        """Of the constraints by name; kept where at most 0."""
        return dict(trial.user_attrs.get(CONSTRAINTS, {}))

    @cached_property
    def leaders(self) -> list[FrozenTrial]:
        """Whom a new candidate has to beat: the best trial, or the front, of those that keep the constraints."""
        if self._kind != "pareto":
            return self.ranked[:1]
        feasible = self._feasible
        return [feasible[place] for place in front(np.array([trial.values for trial in feasible]))] if feasible else []

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The trials that keep the constraints, the best first and the earliest of equals."""
        return sorted(self._feasible, key=lambda trial: (-trial.values[0], trial.number))

    @cached_property
    def _feasible(self) -> list[FrozenTrial]:
        return [trial for trial in self.full if trial_violation(trial) == 0]

    def would_lead(self, means: Sequence[float]) -> bool:
        """Whether a candidate with these scores, in the order of the tasks, would be the best or on the front."""
        values = np.array(self.values(means))
        if self._kind == "pareto":
            return not any(dominates(np.array(leader.values), values) for leader in self.leaders)
        return all(values[0] > leader.values[0] for leader in self.leaders)

    def values(self, means: Sequence[float]) -> list[float]:
        """What a sampler is told for these scores: the objective, or one signed number a task that has a weight."""
        if self._kind == "pareto":
            counted = zip(self._tasks, means, strict=True)
            return [task.sign * float(mean) for task, mean in counted if task.weight > 0]
        return [float(combine([np.float64(mean) for mean in means], self._tasks, self._kind))]

    @cached_property
    def fits(self) -> dict[TaskMetric, Fit]:
        """For each metric with a stand-in, how the two relate over the trials scored by both."""
        return {task: fit(self._pairs(task)) for task in self._tasks if task.task in self._proxies}

    def _pairs(self, task: TaskMetric) -> list[Pair]:
        proxy = self._proxies[task.task]
        pairs = []
        for scores in map(self.scores, self.full):
            by_proxy, by_metric = scores.task(proxy), scores.task(task)
            if by_proxy.n and by_proxy.n == by_metric.n:
                pairs.append(Pair(proxy.sign * by_proxy.mean, task.sign * by_metric.mean))
        return pairs
