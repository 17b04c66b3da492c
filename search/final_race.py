"""The race of the finalists on `select`: who cannot be the best on both splits together leaves early."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import Evaluator, Scores, TaskMetric
from evomerge.evaluators.objective import objective
from evomerge.search.errands import Errand
from evomerge.search.jackknife import pseudo_values
from evomerge.search.judgement import count
from evomerge.search.listener import Listener
from evomerge.search.racing import Difference, of_sample, p_value, reach, stratified
from evomerge.search.scoring import Scorer
from evomerge.search.spending import nominal_levels

ERROR = 0.05


@dataclass
class Runner:
    """A finalist on its way.

    Attributes:
        search: its scores on all of `search`.
        select: its scores on the documents of `select` so far.
        documents: how many these are.
        is_out: whether it has left the race.
    """

    search: Scores = field(repr=False)
    select: Scores = field(default_factory=Scores, repr=False)
    documents: int = 0
    is_out: bool = False


class FinalRace:
    """All finalists see the documents of `select` in one order, rung by rung, and after each rung some may leave.

    One leaves when the hypothesis is rejected that, with all documents of both splits seen, its weighted mean would be
    higher than that of the one that leads on the documents so far. What both have on `search` is known; what is tested
    is whether its gain on `select`, of which the documents so far are a sample without replacement, can make up for
    that. Nothing of `search` is taken for a sample: finalists were picked by it. The probability that a candidate which
    would overtake a leader leaves because of that leader is at most 0.05 over all rungs together, up to the normal
    approximation.

    Args:
        evaluator: says what is measured on which documents.
        scorer: scores.
        is_race: False: nobody leaves.
        listener: is told who left or could not be scored; counts a step for each finalist.
    """

    def __init__(self, evaluator: Evaluator, scorer: Scorer, is_race: bool, listener: Listener) -> None:
        self._tasks = [task for task in evaluator.tasks if task.weight > 0]
        self._all_tasks = evaluator.tasks
        self._scorer = scorer
        self._is_race = is_race
        self._listener = listener
        self._rungs = evaluator.rungs("select")
        documents = evaluator.documents("select")
        self._totals = {task.task: sum(each.task == task.task for each in documents) for task in self._tasks}
        sizes = [sum(map(len, rung)) for rung in self._rungs]
        self._levels = nominal_levels(ERROR, [float(passed / sum(sizes)) for passed in accumulate(sizes)])

    def run(self, recipes: Mapping[int, Recipe]) -> dict[int, Runner]:
        """Score the recipes, by their trials' numbers; one that cannot be scored is noted and left out.

        Raises:
            InterruptedRunError: when somebody asked to stop; what is scored is kept.
        """
        runners: dict[int, Runner] = {}
        self._scorer.ahead([Errand(recipe, number, "search") for number, recipe in recipes.items()])
        for number, recipe in recipes.items():
            try:
                runners[number] = Runner(self._scorer.score(recipe, "search", number))
            except CandidateError as error:
                self._drop(number, error)
        climbs = {number: self._scorer.climb(recipes[number], self._rungs, "select", number) for number in runners}
        for look in range(len(self._rungs)):
            racing = [number for number, runner in runners.items() if not runner.is_out]
            self._scorer.ahead([Errand(recipes[number], number, "select", look) for number in racing])
            self._advance(runners, climbs)
            if self._is_race and look < len(self._rungs) - 1:
                self._part(runners, look)
        for runner in runners.values():
            if not runner.is_out:
                self._listener.step()
        self._tell_saved(runners)
        return runners

    def _advance(self, runners: dict[int, Runner], climbs: Mapping[int, Iterator[Scores]]) -> None:
        """One rung for all that are in the race."""
        for number, runner in list(runners.items()):
            if runner.is_out:
                continue
            try:
                runner.select = next(climbs[number])
            except CandidateError as error:
                del runners[number]
                self._drop(number, error)
                continue
            runner.documents = count(runner.select, self._all_tasks)

    def _part(self, runners: Mapping[int, Runner], look: int) -> None:
        """Let those leave that cannot overtake the leader."""
        racing = {number: runner for number, runner in runners.items() if not runner.is_out}
        if len(racing) < 2:
            return
        ahead = min(
            racing, key=lambda number: (-objective(racing[number].search | racing[number].select, self._tasks), number)
        )
        for number, runner in racing.items():
            if number == ahead:
                continue
            p = p_value(self._whole_difference(runner, racing[ahead]), 0.0)
            if p < self._levels[look]:
                runner.is_out = True
                self._listener.step()

    def _whole_difference(self, runner: Runner, leader: Runner) -> Difference:
        """How much higher the runner's objective would be than the leader's with all documents of both splits."""
        parts = [self._of_task(task, runner, leader) for task in self._tasks]
        total = sum(task.weight for task in self._tasks)
        return stratified(parts, [task.weight / total for task in self._tasks], [task.task for task in self._tasks])

    def _of_task(self, task: TaskMetric, runner: Runner, leader: Runner) -> Difference:
        known = _gains(task, runner.search, leader.search)
        seen = _gains(task, runner.select, leader.select)
        if len(seen) < 2:
            return Difference(float("nan"), float("inf"), 0.0, 0.0)
        unseen = self._totals[task.task] - len(runner.select.keys(task))
        share = (len(runner.select.keys(task)) + unseen) / (self._totals[task.task] + len(runner.search.keys(task)))
        values = np.concatenate([runner.select.values(task), leader.select.values(task)])
        widest = reach(values[~np.isnan(values)]) if task.aggregation.is_mean else float(np.ptp(seen))
        rest = of_sample(seen, unseen * len(seen) / len(runner.select.keys(task)), widest)
        before = float(known.mean()) if len(known) else 0.0
        return Difference(
            (1 - share) * before + share * rest.mean, share**2 * rest.variance, share**3 * rest.skew, rest.degrees
        )

    def _drop(self, number: int, error: CandidateError) -> None:
        self._listener.note(f"trial {number} is out of the final: {error}")
        self._listener.step()

    def _tell_saved(self, runners: Mapping[int, Runner]) -> None:
        left = [str(number) for number, runner in runners.items() if runner.is_out]
        if left:
            full = len(runners) * max(runner.documents for runner in runners.values())
            scored = sum(runner.documents for runner in runners.values())
            self._listener.note(
                f"select: {len(left)} of {len(runners)} finalists left the race early (trials {', '.join(left)}); "
                f"{scored} of {full} documents were scored"
            )


def _gains(task: TaskMetric, mine: Scores, theirs: Scores) -> np.typing.NDArray[np.float64]:
    """By how much the first is better on each document that both have a value on; of a corpus on each group of them."""
    pairs = [pseudo_values(task, each.values(task), each.items(task)) for each in (mine, theirs)]
    gains: np.typing.NDArray[np.float64] = task.sign * (pairs[0] - pairs[1])
    return gains[~np.isnan(gains)]
