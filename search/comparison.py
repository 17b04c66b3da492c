"""The answer: how much better the winner is than what one could have had without a search, on untouched documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import SPLITS, Scores, Split, TaskMetric
from evomerge.evaluators.types import titles
from evomerge.search.bootstrap import Interval, difference_interval, objective_interval
from evomerge.search.constraints import Bounds, total_violation
from evomerge.search.contest import Contestant
from evomerge.search.errands import Errand
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, reference_recipes
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.selection import Finalist, pooled_front
from evomerge.search.shrinkage import Rival, shrinkage
from evomerge.search.study import ORIGIN, best_of, complete_trials, full_trials, trial_recipe, trial_violation


def compare(
    problem: Problem,
    study: optuna.Study,
    scorer: Scorer,
    finalists: list[Finalist],
    listener: Listener,
    contestants: Sequence[Contestant] = (),
) -> dict[str, Any]:
    """Score the winner, its sources, the uniform merge, the best sweep and the best of other searches on `report`.

    Returns:
        A JSON object: {split, winner: {number, objective, interval, tasks}, feasible, constraints: {name: {bound,
        value, reference, margin, kept, violation}}, finalists, baselines: {name: {objective, tasks, difference,
        interval, feasible}}}; intervals are [low, high] at 95 %, `difference` is winner minus baseline.
        `feasible` says whether the winner keeps all constraints on the documents that it was chosen by, `constraints`
        how it does on those of `split`, for which a baseline's `feasible` holds, too. A finalist has {number, search,
        select, pooled, feasible, documents, out}: `out` says whether it left the race on `select` after as many
        documents of it as `documents` says, which its `select` and `pooled` are then of. A baseline that another search
        found has its {trials, documents}, too.
        `pick` says in words by which rule the winner was picked. `shrinkage` is {search, chosen, expected, shrinkage,
        interval}: the winner's objective on `search` and on all documents that it was chosen by, what is to be expected
        on new ones, the difference of the last two, and the 95 % interval of the expected one.
        With the objective pareto there is `front`: [{number, tasks: {task: value}}], the finalists that no other one
        beats on the documents that they were chosen by.
    """
    winner = finalists[0]
    split: Split = "report" if problem.evaluator.documents("report") else "search"
    others = baselines(problem, study) | {each.name: each.recipe for each in contestants}
    listener.stage("report", 1 + len(others), 0)
    bounds = resolve_bounds(problem, scorer, split)
    rest = [Errand(recipe, None, split) for recipe in others.values()]
    scorer.ahead([Errand(winner.recipe, winner.number, split), *rest])
    won = scorer.score(winner.recipe, split, winner.number)
    listener.step()
    rows = {}
    for name, recipe in others.items():
        rows[name] = _row(problem, scorer, name, recipe, split, won, bounds, listener)
        listener.step()
    for each in contestants:
        if (row := rows[each.name]) is not None:
            row |= {"trials": each.trials, "documents": each.documents}
    result = {
        "split": split,
        "winner": {"number": winner.number, **_scored(problem, won), "tasks": _tasks(problem, scorer, winner)},
        "feasible": winner.is_feasible,
        "constraints": bounds.verdicts(won),
        "finalists": [_finalist(each) for each in finalists],
        "pick": _pick(problem, winner),
        "shrinkage": _shrinkage(problem, study, scorer, finalists),
        "baselines": {name: row for name, row in rows.items() if row is not None},
    }
    if problem.config.evaluate.objective == "pareto":
        members = pooled_front([each for each in finalists if not each.is_out], problem.evaluator.tasks)
        result["front"] = [{"number": each.number, "tasks": _means(problem, each.scores)} for each in members]
    return result


def _finalist(finalist: Finalist) -> dict[str, Any]:
    told = {key: getattr(finalist, key) for key in ("number", "search", "select", "pooled")}
    return {
        **told,
        "feasible": finalist.is_feasible,
        "documents": finalist.documents,
        "out": finalist.is_out,
    }


_PICKS = {
    "mean": "the highest weighted mean of the tasks",
    "worst": "the highest score in its worst task",
    "pareto": "of the front, the highest weighted mean of the tasks",
}


def _pick(problem: Problem, winner: Finalist) -> str:
    splits = [split for split in ("search", "select") if problem.evaluator.documents(split)]
    documents = f"the documents of {' and '.join(splits)}{' together' if len(splits) > 1 else ''}"
    if not winner.is_feasible:
        return f"the least violation of the constraints on {documents}, which no finalist keeps"
    kept = " of those that keep the constraints" if problem.config.evaluate.constraints else ""
    return f"{_PICKS[problem.config.evaluate.objective]} on {documents}{kept}"


def _shrinkage(problem: Problem, study: optuna.Study, scorer: Scorer, finalists: Sequence[Finalist]) -> dict[str, Any]:
    """How much of the winner's score is luck of the choice among all candidates that are scored in full."""
    winner, *others = finalists
    evaluate, seed = problem.config.evaluate, problem.config.search.seed
    digests = {each.recipe.digest for each in finalists}
    rivals = [_rival(problem, each) for each in others if each.is_feasible or not winner.is_feasible]
    for trial in full_trials(study):
        recipe = trial_recipe(trial)
        if recipe.digest not in digests and (trial_violation(trial) == 0 or not winner.is_feasible):
            digests.add(recipe.digest)
            rivals.append(Rival(scorer.score(recipe, "search", trial.number)))
    found = shrinkage(problem.evaluator.tasks, evaluate.objective, _rival(problem, winner), rivals, seed)
    return {
        "search": winner.search,
        "chosen": found.chosen,
        "expected": found.expected,
        "shrinkage": found.luck,
        "interval": [found.low, found.high],
    }


def _rival(problem: Problem, finalist: Finalist) -> Rival:
    search = finalist.scores.of(problem.evaluator.documents("search"))
    if finalist.is_out or finalist.select is None:
        return Rival(search)
    return Rival(search, finalist.scores.of(problem.evaluator.documents("select")))


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
