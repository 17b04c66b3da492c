"""Choosing the winner: the best few on `search` are scored again on `select`."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators.objective import objective
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem
from evomerge.search.scoring import Scorer
from evomerge.search.study import DIGEST, complete_trials, trial_recipe


@dataclass(frozen=True)
class Finalist:
    """A candidate that was scored on `search` and `select`.

    Attributes:
        number: of its trial.
        search, select: its objective on either split; None where `select` has no documents.
        pooled: its objective on the documents of both: what the winner is chosen by.
    """

    number: int
    recipe: Recipe
    search: float
    select: float | None
    pooled: float


def choose(problem: Problem, study: optuna.Study, scorer: Scorer, listener: Listener) -> list[Finalist]:
    """The finalists, the winner first.

    All finalists were picked for a high score on `search`, so each of those scores flatters; they do so alike, and the
    documents of both splits together say more than those of `select` alone. With no documents in `select`, the best
    on `search` wins.
    """
    candidates = _best_distinct(study, problem.config.search.finalists)
    listener.stage("select", len(candidates), 0)
    finalists = []
    for trial in candidates:
        finalist = _score(problem, scorer, trial, listener)
        if finalist is not None:
            finalists.append(finalist)
        listener.step()
    return sorted(finalists, key=lambda each: (-each.pooled, -each.search, each.number))


def _best_distinct(study: optuna.Study, count: int) -> list[optuna.trial.FrozenTrial]:
    ranked = sorted(complete_trials(study), key=lambda trial: (-float(trial.value or 0.0), trial.number))
    distinct: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in ranked:
        distinct.setdefault(trial.user_attrs[DIGEST], trial)
    return list(distinct.values())[:count]


def _score(problem: Problem, scorer: Scorer, trial: optuna.trial.FrozenTrial, listener: Listener) -> Finalist | None:
    recipe = trial_recipe(trial)
    tasks, kind = problem.evaluator.tasks, problem.config.evaluate.objective
    on_search = scorer.score(recipe, "search", trial.number)
    try:
        on_select = scorer.score(recipe, "select", trial.number)
    except CandidateError as error:
        listener.note(f"trial {trial.number} is out of the final: {error}")
        return None
    value = float(trial.value or 0.0)
    if not problem.evaluator.documents("select"):
        return Finalist(trial.number, recipe, value, None, value)
    pooled = objective(on_search | on_select, tasks, kind)
    return Finalist(trial.number, recipe, value, objective(on_select, tasks, kind), pooled)
