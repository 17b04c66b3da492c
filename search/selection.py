"""Choosing the winner: the best few on `search` are scored again on `select`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import Scores, TaskMetric
from evomerge.evaluators.objective import objective
from evomerge.search.constraints import Bounds, total_violation
from evomerge.search.listener import Listener
from evomerge.search.pareto import front, spread
from evomerge.search.problem import Problem
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.study import (
    DIGEST,
    STDERR,
    complete_trials,
    is_estimated,
    trial_objective,
    trial_recipe,
    trial_violation,
)


@dataclass(frozen=True)
class Finalist:
    """A candidate that was scored on every document of `search` and `select`.

    Attributes:
        number: of its trial.
        recipe: what was merged.
        search, select: its objective on either split; None where `select` has no documents.
        pooled: its objective on the documents of both: what the winner is chosen by.
        scores: on the documents of both.
        violations: how far `scores` are beyond each bound, by its name.
    """

    number: int
    recipe: Recipe
    search: float
    select: float | None
    pooled: float
    scores: Scores = field(repr=False)
    violations: dict[str, float] = field(default_factory=dict)

    @property
    def is_feasible(self) -> bool:
        """Whether it keeps all constraints on the documents of `search` and `select` together."""
        return total_violation(self.violations) == 0


def choose(problem: Problem, study: optuna.Study, scorer: Scorer, listener: Listener) -> list[Finalist]:
    """The finalists, the winner first.

    All finalists were picked for a high score on `search`, so each of those scores flatters; they do so alike, and the
    documents of both splits together say more than those of `select` alone. With no documents in `select`, the best
    on `search` wins. Those that keep the constraints on both splits together come before those that do not, and these
    are ordered by how far they are beyond them. With the objective pareto `pooled` is the tasks' weighted mean; the
    candidate that has the highest is on the front (see `pooled_front`) and wins.

    Raises:
        InputError: as `references.resolve_bounds`.
        InterruptedRunError: when somebody asked to stop; what is scored is kept.
    """
    candidates = _candidates(problem, study)
    listener.stage("select", len(candidates), 0)
    if not candidates:
        return []
    bounds = resolve_bounds(problem, scorer, "search", "select")
    finalists = []
    for trial in candidates:
        finalist = _score(problem, scorer, trial, bounds, listener)
        if finalist is not None:
            finalists.append(finalist)
        listener.step()
    ordered = sorted(
        finalists, key=lambda each: (total_violation(each.violations), -each.pooled, -each.search, each.number)
    )
    if ordered and not ordered[0].is_feasible:
        _tell_broken(ordered[0], bounds, listener)
    return ordered


def _candidates(problem: Problem, study: optuna.Study) -> list[FrozenTrial]:
    """The trials to score again: the best, or those that spread over the front.

    Those that break a constraint are among them only where too few do not. An estimate has to be better by its standard
    error, since of many noisy estimates the highest flatter; one without a standard error does not count.
    """
    tasks, count = problem.evaluator.tasks, problem.config.search.finalists
    known = [trial for trial in complete_trials(study) if not math.isnan(_discount(trial))]
    ranked = sorted(
        known,
        key=lambda trial: (trial_violation(trial), _discount(trial) - trial_objective(trial, tasks), trial.number),
    )
    distinct: dict[str, FrozenTrial] = {}
    for trial in ranked:
        distinct.setdefault(trial.user_attrs[DIGEST], trial)
    best = list(distinct.values())
    feasible = [trial for trial in best if trial_violation(trial) == 0]
    if problem.config.evaluate.objective != "pareto" or not feasible:
        return best[:count]
    points = np.array([trial.values for trial in feasible]) - np.array([[_discount(trial)] for trial in feasible])
    members = front(points)  # the first of them has the highest weighted mean: the pick
    return [feasible[members[place]] for place in spread(points[members], count, first=0)]


def _discount(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get(STDERR, math.nan)) if is_estimated(trial) else 0.0


def _score(problem: Problem, scorer: Scorer, trial: FrozenTrial, bounds: Bounds, listener: Listener) -> Finalist | None:
    recipe = trial_recipe(trial)
    tasks, kind = problem.evaluator.tasks, problem.config.evaluate.objective
    try:
        on_search = scorer.score(recipe, "search", trial.number)
        on_select = scorer.score(recipe, "select", trial.number)
        both = on_search | on_select
        violations = bounds.violations(both)
    except CandidateError as error:
        listener.note(f"trial {trial.number} is out of the final: {error}")
        return None
    value = objective(on_search, tasks, kind)
    if not problem.evaluator.documents("select"):
        return Finalist(trial.number, recipe, value, None, value, both, violations)
    select, pooled = objective(on_select, tasks, kind), objective(both, tasks, kind)
    return Finalist(trial.number, recipe, value, select, pooled, both, violations)


def pooled_front(finalists: Sequence[Finalist], tasks: Sequence[TaskMetric]) -> list[Finalist]:
    """The finalists that no other one beats on the documents of both splits, in the order given.

    None beats them in that it is as good in every task with a weight and better in one. Only those count that keep the
    constraints, or, where none does, that are least beyond them.
    """
    least = min(total_violation(each.violations) for each in finalists)
    counted = [each for each in finalists if total_violation(each.violations) == least]
    weighted = [task for task in tasks if task.weight > 0]
    points = np.array([[task.sign * each.scores.task(task).mean for task in weighted] for each in counted])
    return [counted[place] for place in front(points)]


def _tell_broken(winner: Finalist, bounds: Bounds, listener: Listener) -> None:
    broken = [
        f"{name} (it has {verdict['value']:.4f} and misses {verdict['bound']:.4f} by {verdict['violation']:.4f})"
        for name, verdict in bounds.verdicts(winner.scores).items()
        if not verdict["kept"]
    ]
    listener.note(
        f"no finalist keeps all constraints; the winner, trial {winner.number}, is the least beyond them and breaks "
        f"{', '.join(broken)}"
    )
