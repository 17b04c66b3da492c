"""Where a run stands."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from evomerge.evaluators.types import Scores
from evomerge.runs.pace import Pace, pace_of
from evomerge.runs.run import Run
from evomerge.search.archive import members
from evomerge.search.pareto import front
from evomerge.search.rounds import current_round
from evomerge.search.stopping import STOPPED
from evomerge.search.study import (
    CONSTRAINTS,
    DIGEST,
    NOISE,
    PROXY,
    PRUNED,
    SAMPLER,
    SECONDS,
    SUBSET,
    TASKS,
    complete_trials,
    full_trials,
    is_estimated,
    study_tasks,
    trial_objective,
    trial_violation,
)


def status(run: Run) -> dict[str, Any]:
    """A JSON object with the run's state.

    Returns:
        {name, state: running | stopped | finished, trials: {complete, pruned, failed, running, total}, best: {number,
        objective, split, tasks: {task: {metric, search, select, report}}, feasible, constraints, estimated} or None,
        baselines: {name: objective}, documents: {scored, full}, seconds: {merge, score, sampler, total}, rate:
        {candidates, documents} or None, left: seconds or None}, and where there is one `front`, `niches`, `proxy`,
        `subset`, `shrinkage` and `stopped`.

        Once the search has ended, the objectives of best and baselines are those on the untouched documents, before
        that best's is on `search` (see `split`), and so are its constraints: {name: {kept, violation}}, with {bound,
        value, reference, margin} once the search has ended. `feasible` is whether it keeps them on the documents that
        it was chosen by. `estimated` is true while there is no trial that was scored in full.
        `pruned` counts trials that were stopped early, `total` is the number of trials to reach. `documents` are those
        of `search`, scored by the metric; `full` is what scoring every document in every trial would have taken.
        `front`, with the objective pareto: [{number, tasks: {task: value}}] of the trials that keep the constraints and
        that no other one beats. `proxy`: {name: {correlation, pairs, leads}} of stand-ins for metrics. `subset`:
        {documents, of, error} where candidates are scored on some documents for all. Before the search has
        ended, best has the standard error of its objective, `stderr`, where it was scored in full; then what objective
        to expect on new documents, `expected`, on which `shrinkage` says more (see `search.comparison.compare`).
        `stopped`: why `search.stop` ended the search. `rate`: candidates a minute and documents a second over the
        latest trials. `left`: how long the trials to come take at that rate, without the comparison after them; 0 once
        the search has ended. None: not known, or nobody works on the run.
    """
    trials = run.study.get_trials(deepcopy=False)
    counts = _counts(trials)
    ended = counts["complete"] + counts["pruned"] + counts["failed"]
    result = run.result
    rate = pace_of(trials)
    launch = current_round(run.study)
    wanted = run.config.search.trials if launch is None else launch.trials
    total = max(wanted, ended)
    finished = result is not None and (ended >= wanted or STOPPED in run.study.user_attrs)
    stand_ins = [run.config.evaluate.proxy] if run.config.evaluate.proxy is not None else []
    state = "running" if run.is_held else "finished" if finished else "stopped"
    return {
        "name": run.study.study_name,
        "state": state,
        "trials": {**counts, "total": total},
        "best": _best(run),
        "baselines": {name: row["objective"] for name, row in (result or {"baselines": {}})["baselines"].items()},
        "documents": {
            "scored": run.ledger.count("search", stand_ins),
            "full": ended * run.ledger.widest("search", stand_ins),
        },
        "seconds": _seconds(trials),
        "rate": None if rate is None else {name: round(value, 3) for name, value in rate._asdict().items()},
        "left": _left(state, total - ended, rate),
        **_where_there_is_one(run),
    }


def _counts(trials: list[FrozenTrial]) -> dict[str, int]:
    states = Counter(trial.state for trial in trials)
    stopped = sum(trial.state == TrialState.COMPLETE and bool(trial.user_attrs.get(PRUNED)) for trial in trials)
    return {
        "complete": states[TrialState.COMPLETE] - stopped,
        "pruned": states[TrialState.PRUNED] + stopped,
        "failed": states[TrialState.FAIL],
        "running": states[TrialState.RUNNING],
    }


def _left(state: str, trials: int, rate: Pace | None) -> float | None:
    """Seconds until so many more trials have ended; None: not known."""
    if state == "finished":
        return 0.0
    if state == "stopped" or rate is None:
        return None
    return round(60 * trials / rate.candidates, 1)


def _best(run: Run) -> dict[str, Any] | None:
    result = run.result
    if result is not None:
        winner = result["winner"]
        shrinkage = result.get("shrinkage")
        return {
            **({} if shrinkage is None else {"expected": shrinkage["expected"]}),
            "number": winner["number"],
            "objective": winner["objective"],
            "split": result["split"],
            "tasks": winner["tasks"],
            "feasible": result.get("feasible", True),
            "constraints": result.get("constraints", {}),
            "estimated": False,
        }
    if not complete_trials(run.study):
        return None
    best = run.best
    tasks = {task: {"metric": told["metric"], "search": told["value"]} for task, told in best.user_attrs[TASKS].items()}
    violations = best.user_attrs.get(CONSTRAINTS, {})
    return {
        **({"stderr": best.user_attrs[NOISE]} if NOISE in best.user_attrs else {}),
        "number": best.number,
        "objective": trial_objective(best, study_tasks(run.study)),
        "split": "search",
        "tasks": tasks,
        "feasible": trial_violation(best) == 0,
        "constraints": {
            name: {"kept": violation <= 0, "violation": violation} for name, violation in violations.items()
        },
        "estimated": is_estimated(best),
    }


def _where_there_is_one(run: Run) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if run.config.evaluate.objective == "pareto":
        told["front"] = run.result["front"] if run.result is not None else _front(run)
    if run.result is not None and "shrinkage" in run.result:
        told["shrinkage"] = run.result["shrinkage"]
    if STOPPED in run.study.user_attrs:
        told["stopped"] = run.study.user_attrs[STOPPED]
    if run.study.user_attrs.get(SAMPLER) == "niches":
        told["niches"] = _niches(run)
    if PROXY in run.study.user_attrs:
        told["proxy"] = run.study.user_attrs[PROXY]
    if SUBSET in run.study.user_attrs:
        subset = run.study.user_attrs[SUBSET]
        told["subset"] = {"documents": len(subset["documents"]), "of": subset["of"], "error": subset["error"]}
    return told


def _front(run: Run) -> list[dict[str, Any]]:
    trials = [trial for trial in full_trials(run.study) if trial_violation(trial) == 0]
    if not trials:
        return []
    members = [trials[place] for place in front(np.array([trial.values for trial in trials]))]
    return [
        {"number": trial.number, "tasks": {task: told["value"] for task, told in trial.user_attrs[TASKS].items()}}
        for trial in members
    ]


def _niches(run: Run) -> list[dict[str, Any]]:
    """The archive of different skills, the fittest first, as `search.archive.members` tells them."""

    def scores(trial: FrozenTrial) -> Scores:
        return Scores(tuple(run.ledger.scores(str(trial.user_attrs.get(DIGEST)), "search")))

    return members(run.study, scores, study_tasks(run.study), **run.config.search.sampler_options)


def _seconds(trials: list[FrozenTrial]) -> dict[str, float]:
    spent: dict[str, float] = {"merge": 0.0, "score": 0.0, "sampler": 0.0}
    for trial in trials:
        for part, seconds in trial.user_attrs.get(SECONDS, {}).items():
            spent[part] += seconds
    return {**{part: round(seconds, 3) for part, seconds in spent.items()}, "total": round(sum(spent.values()), 3)}
