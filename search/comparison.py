"""The answer: how much better the winner is than what one could have had without a search, on untouched documents."""

from __future__ import annotations

from typing import Any

import optuna

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import SPLITS, Scores, Split, TaskMetric
from evomerge.evaluators.types import titles
from evomerge.search.bootstrap import Interval, difference_interval, objective_interval
from evomerge.search.constraints import Bounds, total_violation
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, reference_recipes
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.selection import Finalist, pooled_front
from evomerge.search.study import ORIGIN, best_of, complete_trials, full_trials, trial_recipe


def compare(
    problem: Problem, study: optuna.Study, scorer: Scorer, finalists: list[Finalist], listener: Listener
) -> dict[str, Any]:
    """Score the winner, its sources, the uniform merge and the best sweep on `report`.

    Returns:
        A JSON object: {split, winner: {number, objective, interval, tasks}, feasible, constraints: {name: {bound,
        value, reference, margin, kept, violation}}, finalists, baselines: {name: {objective, tasks, difference,
        interval, feasible}}}; intervals are [low, high] at 95 %, `difference` is winner minus baseline.
        `feasible` says whether the winner keeps all constraints on the documents that it was chosen by, `constraints`
        how it does on those of `split`, for which a baseline's `feasible` holds, too.
        With the objective pareto there is `front`: [{number, tasks: {task: value}}], the finalists that no other one
        beats on the documents that they were chosen by.
    """
    winner = finalists[0]
    split: Split = "report" if problem.evaluator.documents("report") else "search"
    others = baselines(problem, study)
    listener.stage("report", 1 + len(others), 0)
    bounds = resolve_bounds(problem, scorer, split)
    won = scorer.score(winner.recipe, split, winner.number)
    listener.step()
    rows = {}
    for name, recipe in others.items():
        rows[name] = _row(problem, scorer, name, recipe, split, won, bounds, listener)
        listener.step()
    result = {
        "split": split,
        "winner": {"number": winner.number, **_scored(problem, won), "tasks": _tasks(problem, scorer, winner)},
        "feasible": winner.is_feasible,
        "constraints": bounds.verdicts(won),
        "finalists": [_finalist(each) for each in finalists],
        "baselines": {name: row for name, row in rows.items() if row is not None},
    }
    if problem.config.evaluate.objective == "pareto":
        members = pooled_front(finalists, problem.evaluator.tasks)
        result["front"] = [{"number": each.number, "tasks": _means(problem, each.scores)} for each in members]
    return result


def _finalist(finalist: Finalist) -> dict[str, Any]:
    told = {key: getattr(finalist, key) for key in ("number", "search", "select", "pooled")}
    return {**told, "feasible": finalist.is_feasible}


def baselines(problem: Problem, study: optuna.Study) -> dict[str, Recipe]:
    """What the winner is compared with, by name: its sources, the uniform merge, the best sweep.

    Of the sweeps those scored in full count, by Deb's rule; estimated ones only where none was.
    """
    found = reference_recipes(problem.config)
    sweeps = [
        [trial for trial in trials if "sweep" in str(trial.user_attrs.get(ORIGIN, ""))]
        for trials in (full_trials(study), complete_trials(study))
    ]
    if sweeps[0] or sweeps[1]:
        found["best sweep"] = trial_recipe(best_of(sweeps[0] or sweeps[1], problem.evaluator.tasks))
    return found


def _row(
    problem: Problem,
    scorer: Scorer,
    name: str,
    recipe: Recipe,
    split: Split,
    won: Scores,
    bounds: Bounds,
    listener: Listener,
) -> dict[str, Any] | None:
    evaluate, seed = problem.config.evaluate, problem.config.search.seed
    try:
        scores = scorer.score(recipe, split, None)
        violations = bounds.violations(scores)
    except CandidateError as error:
        listener.note(f"{name} could not be scored and is left out of the comparison: {error}")
        return None
    gain = difference_interval(won, scores, _counted(problem), evaluate.objective, seed)
    return {
        **_scored(problem, scores),
        "tasks": _means(problem, scores),
        "difference": gain.value,
        "difference_interval": [gain.low, gain.high],
        "feasible": total_violation(violations) == 0,
    }


def _counted(problem: Problem) -> list[TaskMetric]:
    return [task for task in problem.evaluator.tasks if task.weight > 0]


def _means(problem: Problem, scores: Scores) -> dict[str, float]:
    tasks = problem.evaluator.tasks
    return {title: scores.task(task).mean for title, task in zip(titles(tasks), tasks, strict=True)}


def _scored(problem: Problem, scores: Scores) -> dict[str, Any]:
    evaluate, seed = problem.config.evaluate, problem.config.search.seed
    found: Interval = objective_interval(scores, _counted(problem), evaluate.objective, seed)
    return {"objective": found.value, "interval": [found.low, found.high]}


def _tasks(problem: Problem, scorer: Scorer, winner: Finalist) -> dict[str, dict[str, Any]]:
    """For each task the winner's metric on every split that has documents."""
    splits = [split for split in SPLITS if problem.evaluator.documents(split)]
    scores = {split: scorer.score(winner.recipe, split, winner.number) for split in splits}
    tasks = problem.evaluator.tasks
    return {
        title: {"metric": task.label, **{split: scores[split].task(task).mean for split in splits}}
        for title, task in zip(titles(tasks), tasks, strict=True)
    }
