"""One study from its first trial to its answer, worked on by one process or by many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import optuna
from sqlalchemy import Engine

from evomerge.errors import EvomergeError, InputError
from evomerge.search.claims import Claims
from evomerge.search.comparison import compare
from evomerge.search.constraints import Bounds
from evomerge.search.contest import random_search
from evomerge.search.errands import Errands
from evomerge.search.examples import keep_examples
from evomerge.search.identity import check_same_inputs
from evomerge.search.interrupt import StopRequest
from evomerge.search.judge import Judge
from evomerge.search.lease import Lease, LostLeaseError
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.patience import patient
from evomerge.search.problem import Problem
from evomerge.search.references import resolve_bounds
from evomerge.search.rounds import Round, current_round, end_round, is_over, open_round
from evomerge.search.scoring import Scorer
from evomerge.search.selection import choose
from evomerge.search.study import REASON, RESULT, running_trials
from evomerge.search.trials import TrialLoop
from evomerge.search.workers import BEAT_SECONDS, Workers

_WAIT_SECONDS = 0.2  # between looks at what other workers do


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

    A study that was stopped at any point goes on from there; what its ledger holds is not scored again. Processes that
    `work` on the study meanwhile share in all of it.

    Returns:
        The result as `comparison.compare` describes it, which the study keeps too.

    Raises:
        InputError: when models or tasks have changed since the study began.
        InterruptedRunError: when somebody asked to stop.
        EvomergeError: when no trial has a score.
    """
    open_round(study, trials)
    return work(problem, study, engine, listener, stop, timeout)


def work(
    problem: Problem,
    study: optuna.Study,
    engine: Engine,
    listener: Listener,
    stop: StopRequest,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Work on a study that has been launched, here or elsewhere, until its round is over.

    Args:
        problem: what is searched.
        study: in a round that `rounds.open_round` opened.
        engine: the database that holds it.
        listener: is told of decisions and outcomes.
        stop: a request to stop.
        timeout: seconds after which no worker begins a further trial.

    Returns, raises:
        As `search`.
    """
    runtime = problem.config.runtime
    with patient(engine, runtime.patience, listener.note, stop.check):
        check_same_inputs(study, problem.fingerprint())
        workers = Workers(engine, study.study_name)
        workers.join(min(BEAT_SECONDS, runtime.stale / 4))
        try:
            return _Session(problem, study, workers, Ledger(engine, study.study_name), listener, stop).run(timeout)
        finally:
            workers.leave()


class _OverError(Exception):
    """The round that a worker waits for the end of is over, or a new one has begun."""


class _Session:
    """What one worker does in a study."""

    def __init__(
        self,
        problem: Problem,
        study: optuna.Study,
        workers: Workers,
        ledger: Ledger,
        listener: Listener,
        stop: StopRequest,
    ) -> None:
        self._problem = problem
        self._study = study
        self._workers = workers
        self._ledger = ledger
        self._listener = listener
        self._stop = stop
        self._stale = problem.config.runtime.stale
        name = study.study_name
        self._errands = Errands(ledger.engine, name, workers, stop.check, self._stale)
        self._scorer = self._new_scorer()

    def run(self, timeout: float | None) -> dict[str, Any]:
        """Trials and conclusion, again from the trials where a later launch wants more of them."""
        first = current_round(self._study)
        while True:
            found = current_round(self._study)
            if found is None:
                raise InputError("a study must have been launched by run or resume before a worker can join it")
            if is_over(self._study, found):
                return dict(self._study.user_attrs[RESULT])
            self._run_trials(found, timeout if found == first else None)
            try:
                self._conclude(found)
            except _OverError:
                continue
            except LostLeaseError:
                self._listener.note("this process was away for too long while it concluded: another one does")

    def _run_trials(self, found: Round, timeout: float | None) -> None:
        judge = Judge(self._problem, self._study, self._ledger, self._scorer, self._bounds(), self._listener)
        loop = TrialLoop(
            self._problem, self._study, judge, self._listener, self._stop, self._stale, workers=self._workers
        )
        loop.run(found.trials, timeout)

    def _bounds(self) -> Bounds:
        """The constraints; the models that they refer to are scored by one worker for all."""
        if not self._problem.config.evaluate.constraints:
            return resolve_bounds(self._problem, self._scorer, "search")
        with self._lease("references", self._stop.check).held():
            return resolve_bounds(self._problem, self._scorer, "search")

    def _conclude(self, found: Round) -> None:
        """Choose and compare, or help whoever does and take over when it dies; raises _OverError when it is done."""

        def meanwhile() -> None:
            self._stop.check()
            self._check_open(found)
            if not self._errands.help(self._scorer.do):
                time.sleep(_WAIT_SECONDS)

        lease = self._lease("finishing", meanwhile)
        with lease.held():
            self._check_open(found)
            self._wait_for_trials()
            result = self._result()
            end_round(self._study, found, result, lease)
            keep_examples(self._problem, self._study, self._ledger, result)

    def _check_open(self, found: Round) -> None:
        if current_round(self._study) != found or is_over(self._study, found):
            raise _OverError

    def _wait_for_trials(self) -> None:
        """Until no trial is under way: where a round was closed early, others may have begun one before."""
        claims = Claims(self._ledger.engine, self._study.study_name, self._workers, self._stale)
        while any(self._is_alive(claims, trial.number) for trial in running_trials(self._study)):
            self._stop.check()
            time.sleep(_WAIT_SECONDS)

    def _is_alive(self, claims: Claims, number: int) -> bool:
        claim = claims.of(number)
        return claim is not None and claim.worker is not None and not self._workers.is_dead(claim.worker, self._stale)

    def _result(self) -> dict[str, Any]:
        finalists = choose(self._problem, self._study, self._scorer, self._listener)
        if not finalists:
            why = _why(self._study)
            raise EvomergeError(f"a search needs a candidate that can be scored, but every trial failed; {why}")
        contestants = []
        if self._problem.config.search.compare:
            other = random_search(
                self._problem, self._study, self._ledger.engine, self._scorer, self._listener, self._stop
            )
            contestants += [] if other is None else [other]
            self._scorer = self._new_scorer()
        return compare(self._problem, self._study, self._scorer, finalists, self._listener, contestants)

    def _new_scorer(self) -> Scorer:
        return Scorer(self._problem, self._ledger, self._listener, self._stop, self._errands)

    def _lease(self, name: str, check: Callable[[], None]) -> Lease:
        return Lease(self._ledger.engine, self._study.study_name, name, self._workers, check, self._stale)


def _why(study: optuna.Study) -> str:
    reasons = [trial.user_attrs[REASON] for trial in study.get_trials(deepcopy=False) if REASON in trial.user_attrs]
    return f"the last: {reasons[-1]}" if reasons else "there was none"
