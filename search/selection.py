"""Choosing the winner: the best few on `search` race on `select`."""

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
from evomerge.search.beliefs import beliefs
from evomerge.search.constraints import Bounds, total_violation
from evomerge.search.final_race import FinalRace, Runner
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
    """A candidate that was scored on every document of `search`, and, unless it left the race, of `select`.

    Attributes:
        number: of its trial.
        recipe: what was merged.
        search, select: its objective on either split; None where `select` has no documents.
        pooled: its objective on the documents of both: what the winner is chosen by.
        scores: on the documents of both.
        violations: how far `scores` are beyond each bound, by its name.
        documents: of `select`, that it was scored on.
        is_out: whether it left the race before its last document; `select` and `pooled` are then those of the
            documents that it was scored on.
    """

    number: int
    recipe: Recipe
    search: float
    select: float | None
    pooled: float
    scores: Scores = field(repr=False)
    violations: dict[str, float] = field(default_factory=dict)
    documents: int = 0
    is_out: bool = False

    @property
    def is_feasible(self) -> bool:
        """Whether it keeps all constraints on the documents of `search` and `select` together."""
        return total_violation(self.violations) == 0


def choose(
    problem: Problem, study: optuna.Study, scorer: Scorer, listener: Listener, bounds: Bounds | None = None
) -> list[Finalist]:
    """The finalists, the winner first and those that left the race last.

    All finalists were picked for a high expected score on `search`, so each of those scores flatters; they do so alike,
    and the documents of both splits together say more than those of `select` alone. With no documents in `select`, the
    best on `search` wins. Those that keep the constraints on both splits together come before those that do not, and
    these are ordered by how far they are beyond them. With the objective pareto `pooled` is the tasks' weighted mean;
    the candidate that has the highest is on the front (see `pooled_front`) and wins.

    With the objective mean, racing, and no constraints the finalists race on `select` (`FinalRace`). Otherwise all are
    scored on all of it: a front needs every member's score, and constraints may decide at the last document.

    Args:
        problem: says what is measured.
        study: with the trials to choose from.
        scorer: scores, with the study's ledger.
        listener: is told who is out, and why.
        bounds: the constraints on both splits together; None: they are resolved with `scorer`.

    Raises:
        InputError: as `references.resolve_bounds`.
        InterruptedRunError: when somebody asked to stop; what is scored is kept.
    """
    candidates = _candidates(problem, study)
    listener.stage("select", len(candidates), 0)
    if not candidates:
        return []
    bounds = resolve_bounds(problem, scorer, "search", "select") if bounds is None else bounds
    runners = _raced(problem, scorer, candidates, listener)
    finalists = []
    for trial in candidates:
        if trial.number in runners:
            finalist = _finalist(problem, trial, runners[trial.number], bounds, listener)
            finalists += [] if finalist is None else [finalist]
    ordered = sorted(
        finalists,
        key=lambda each: (each.is_out, total_violation(each.violations), -each.pooled, -each.search, each.number),
    )
    if ordered and not ordered[0].is_feasible:
        _tell_broken(ordered[0], bounds, listener)
    return ordered


def _candidates(problem: Problem, study: optuna.Study) -> list[FrozenTrial]:
    """The trials to score again: in turns those that are expected to be best and those that scored best; or a front's.

    What is expected (`beliefs`) is not moved far by one lucky score or vague estimate, but may be wrong about a whole
    neighbourhood; scores are not. Of a front those that spread over it. Candidates that break a
    constraint are among them only where too few do not, and estimates without a standard error never.
    """
    tasks, count = problem.evaluator.tasks, problem.config.search.finalists
    known = [trial for trial in complete_trials(study) if not math.isnan(_discount(trial))]
    believed = beliefs(study, problem.space, tasks)

    def worth(trial: FrozenTrial) -> float:
        return trial_objective(trial, tasks) - _discount(trial)

    def expected(trial: FrozenTrial) -> float:
        return believed[trial.number].mean if trial.number in believed else worth(trial)

    is_front = problem.config.evaluate.objective == "pareto"
    ranked = sorted(
        known,
        key=lambda trial: (
            trial_violation(trial),
            -worth(trial) if is_front else -expected(trial),
            trial.number,
        ),
    )
    distinct: dict[str, FrozenTrial] = {}
    for trial in ranked:
        distinct.setdefault(trial.user_attrs[DIGEST], trial)
    best = list(distinct.values())
    feasible = [trial for trial in best if trial_violation(trial) == 0]
    if not is_front or not feasible:
        return _in_turns(best, sorted(best, key=lambda trial: (trial_violation(trial), -worth(trial))))[:count]
    points = np.array([trial.values for trial in feasible]) - np.array([[_discount(trial)] for trial in feasible])
    members = front(points)  # the first of them has the highest weighted mean: the pick
    return [feasible[members[place]] for place in spread(points[members], count, first=0)]


def _in_turns(first: Sequence[FrozenTrial], second: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials of two rankings of the same, each once."""
    return list({trial.number: trial for pair in zip(first, second, strict=True) for trial in pair}.values())


def _discount(trial: FrozenTrial) -> float:
    return float(trial.user_attrs.get(STDERR, math.nan)) if is_estimated(trial) else 0.0


def _raced(
    problem: Problem, scorer: Scorer, candidates: Sequence[FrozenTrial], listener: Listener
) -> dict[int, Runner]:
    """The scores of those that could be scored, by the trials' numbers."""
    evaluate = problem.config.evaluate
    is_race = evaluate.race is not None and evaluate.objective == "mean" and not evaluate.constraints
    race = FinalRace(problem.evaluator, scorer, is_race, listener)
    return race.run({trial.number: trial_recipe(trial) for trial in candidates})


def _finalist(
    problem: Problem, trial: FrozenTrial, runner: Runner, bounds: Bounds, listener: Listener
) -> Finalist | None:
    tasks, kind = problem.evaluator.tasks, problem.config.evaluate.objective
    both = runner.search | runner.select
    try:
        violations = bounds.violations(both)
    except CandidateError as error:
        listener.note(f"trial {trial.number} is out of the final: {error}")
        return None
    value = objective(runner.search, tasks, kind)
    if not problem.evaluator.documents("select"):
        return Finalist(trial.number, trial_recipe(trial), value, None, value, both, violations)
    select, pooled = objective(runner.select, tasks, kind), objective(both, tasks, kind)
    return Finalist(
        trial.number, trial_recipe(trial), value, select, pooled, both, violations, runner.documents, runner.is_out
    )


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
