"""The answer: how much better the winner is than what one could have had without a search, on untouched documents."""

from __future__ import annotations

from typing import Any

import optuna

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import SPLITS, Scores, Split
from evomerge.search.bootstrap import Interval, difference_interval, objective_interval
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, reference_recipes
from evomerge.search.scoring import Scorer
from evomerge.search.selection import Finalist
from evomerge.search.study import ORIGIN, complete_trials, trial_recipe


def compare(
    problem: Problem, study: optuna.Study, scorer: Scorer, finalists: list[Finalist], listener: Listener
) -> dict[str, Any]:
    """Score the winner, its sources, the uniform merge and the best sweep on `report`.

    Returns:
        A JSON object: {split, winner: {number, objective, interval, tasks}, finalists, baselines: {name: {objective,
        tasks, difference, interval}}}; intervals are [low, high] at 95 %, `difference` is winner minus baseline.
    """
    winner = finalists[0]
    split: Split = "report" if problem.evaluator.documents("report") else "search"
    others = baselines(problem, study)
    listener.stage("report", 1 + len(others), 0)
    won = scorer.score(winner.recipe, split, winner.number)
    listener.step()
    rows = {}
    for name, recipe in others.items():
        rows[name] = _row(problem, scorer, name, recipe, split, won, listener)
        listener.step()
    return {
        "split": split,
        "winner": {"number": winner.number, **_scored(problem, won), "tasks": _tasks(problem, scorer, winner)},
        "finalists": [
            {"number": each.number, "search": each.search, "select": each.select, "pooled": each.pooled}
            for each in finalists
        ],
        "baselines": {name: row for name, row in rows.items() if row is not None},
    }


def baselines(problem: Problem, study: optuna.Study) -> dict[str, Recipe]:
    """What the winner is compared with, by name."""
    found = reference_recipes(problem.config)
    sweeps = [trial for trial in complete_trials(study) if "sweep" in str(trial.user_attrs.get(ORIGIN, ""))]
    if sweeps:
        best = max(sweeps, key=lambda trial: (float(trial.value or 0.0), -trial.number))
        found["best sweep"] = trial_recipe(best)
    return found


def _row(
    problem: Problem, scorer: Scorer, name: str, recipe: Recipe, split: Split, won: Scores, listener: Listener
) -> dict[str, Any] | None:
    evaluate, seed = problem.config.evaluate, problem.config.search.seed
    try:
        scores = scorer.score(recipe, split, None)
    except CandidateError as error:
        listener.note(f"{name} could not be scored and is left out of the comparison: {error}")
        return None
    gain = difference_interval(won, scores, problem.evaluator.tasks, evaluate.objective, seed)
    return {
        **_scored(problem, scores),
        "tasks": {task.task: scores.task(task).mean for task in problem.evaluator.tasks},
        "difference": gain.value,
        "difference_interval": [gain.low, gain.high],
    }


def _scored(problem: Problem, scores: Scores) -> dict[str, Any]:
    evaluate, seed = problem.config.evaluate, problem.config.search.seed
    found: Interval = objective_interval(scores, problem.evaluator.tasks, evaluate.objective, seed)
    return {"objective": found.value, "interval": [found.low, found.high]}


def _tasks(problem: Problem, scorer: Scorer, winner: Finalist) -> dict[str, dict[str, Any]]:
    """For each task the winner's metric on every split that has documents."""
    splits = [split for split in SPLITS if problem.evaluator.documents(split)]
    scores = {split: scorer.score(winner.recipe, split, winner.number) for split in splits}
    return {
        task.task: {"metric": task.label, **{split: scores[split].task(task).mean for split in splits}}
        for task in problem.evaluator.tasks
    }
