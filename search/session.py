"""One study from its first trial to its answer."""

from __future__ import annotations

from typing import Any

import optuna
from sqlalchemy import Engine

from evomerge.errors import EvomergeError
from evomerge.search.comparison import compare
from evomerge.search.contest import random_search
from evomerge.search.interrupt import StopRequest
from evomerge.search.judge import Judge
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.selection import choose
from evomerge.search.study import REASON, RESULT, check_same_inputs
from evomerge.search.trials import TrialLoop


def search(
    problem: Problem,
    study: optuna.Study,
    engine: Engine,
    listener: Listener,
    stop: StopRequest,
    trials: int,
    timeout: float | None,
) -> dict[str, Any]:
    """Run trials until `trials` are finished, choose the winner, and compare it on untouched documents.

    A study that was stopped at any point goes on from there; what its ledger holds is not scored again.

    Returns:
        The result as `comparison.compare` describes it, which the study keeps too.

    Raises:
        InputError: when models or tasks have changed since the study began.
        InterruptedRunError: when somebody asked to stop.
        EvomergeError: when no trial has a score.
    """
    check_same_inputs(study, problem.fingerprint())
    ledger = Ledger(engine, study.study_name)
    scorer = Scorer(problem, ledger, listener, stop)
    judge = Judge(problem, study, ledger, scorer, resolve_bounds(problem, scorer, "search"), listener)
    TrialLoop(problem, study, judge, listener, stop).run(trials, timeout)
    finalists = choose(problem, study, scorer, listener)
    if not finalists:
        raise EvomergeError(f"a search needs a candidate that can be scored, but every trial failed; {_why(study)}")
    contestants = []
    if problem.config.search.compare:
        other = random_search(problem, study, engine, scorer, listener, stop)
        contestants += [] if other is None else [other]
        scorer = Scorer(problem, ledger, listener, stop)
    result = compare(problem, study, scorer, finalists, listener, contestants)
    study.set_user_attr(RESULT, result)
    return result


def _why(study: optuna.Study) -> str:
    reasons = [trial.user_attrs[REASON] for trial in study.get_trials(deepcopy=False) if REASON in trial.user_attrs]
    return f"the last: {reasons[-1]}" if reasons else "there was none"
