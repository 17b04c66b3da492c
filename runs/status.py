"""Where a run stands."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial, TrialState

from evomerge.runs.run import Run
from evomerge.search.study import SECONDS, TASKS, complete_trials


def status(run: Run) -> dict[str, Any]:
    """A JSON object with the run's state.

    Returns:
        {name, state: running | stopped | finished, trials: {complete, pruned, failed, running, total}, best: {number,
        objective, split, tasks: {task: {metric, search, select, report}}} or None, baselines: {name: objective},
        documents: {scored, full}, seconds: {merge, score, sampler, total}}. Once the search has ended, the objectives
        of best and baselines are those on the untouched documents, before that best's is on `search` (see `split`).
        `full` is what scoring every document of every trial would have taken. `total` of trials is the number to reach.
    """
    trials = run.study.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    ended = counts[TrialState.COMPLETE] + counts[TrialState.PRUNED] + counts[TrialState.FAIL]
    result = run.result
    finished = result is not None and ended >= run.config.search.trials
    return {
        "name": run.study.study_name,
        "state": "running" if run.is_held else "finished" if finished else "stopped",
        "trials": {
            "complete": counts[TrialState.COMPLETE],
            "pruned": counts[TrialState.PRUNED],
            "failed": counts[TrialState.FAIL],
            "running": counts[TrialState.RUNNING],
            "total": max(run.config.search.trials, ended),
        },
        "best": _best(run),
        "baselines": {name: row["objective"] for name, row in (result or {"baselines": {}})["baselines"].items()},
        "documents": {"scored": run.ledger.count("search"), "full": ended * _documents_a_trial(run)},
        "seconds": _seconds(trials),
    }


def _best(run: Run) -> dict[str, Any] | None:
    result = run.result
    if result is not None:
        winner = result["winner"]
        return {
            "number": winner["number"],
            "objective": winner["objective"],
            "split": result["split"],
            "tasks": winner["tasks"],
        }
    if not complete_trials(run.study):
        return None
    best = run.best
    tasks = {task: {"metric": told["metric"], "search": told["value"]} for task, told in best.user_attrs[TASKS].items()}
    return {"number": best.number, "objective": best.value, "split": "search", "tasks": tasks}


def _documents_a_trial(run: Run) -> int:
    """How many documents of the split `search` a full scoring takes: the most that any trial has in the ledger."""
    return run.ledger.widest("search")


def _seconds(trials: list[FrozenTrial]) -> dict[str, float]:
    spent: dict[str, float] = {"merge": 0.0, "score": 0.0, "sampler": 0.0}
    for trial in trials:
        for part, seconds in trial.user_attrs.get(SECONDS, {}).items():
            spent[part] += seconds
    return {**{part: round(seconds, 3) for part, seconds in spent.items()}, "total": round(sum(spent.values()), 3)}
