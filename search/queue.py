"""The trials of a study as its workers share them: each is one worker's at a time, and is finished once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection

from evomerge.search import lease
from evomerge.search.claims import MAX_DEATHS, STALE_SECONDS, Claims
from evomerge.search.lease import Lease, LostLeaseError
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.patience import transact
from evomerge.search.proposals import Proposal, Proposer, content_of
from evomerge.search.sampling import ENQUEUED, PROPOSAL
from evomerge.search.study import ORIGIN, REASON, TOLD
from evomerge.search.trial_rows import (
    TrialContent,
    add_trial,
    count_finished,
    count_trials,
    fill_trial,
    finish_trial,
    is_running,
    remove_attributes,
    start_trial,
)
from evomerge.search.workers import Workers
from evomerge.spaces import Point, Space

_AWAY = "this process was away for too long while it proposed: it begins again"


class LostTrialError(Exception):
    """Another worker took the trial over, since this one was not heard of for too long."""


class TrialQueue:
    """Gives out trials and takes them back.

    A trial comes into being with its whole point, under a lease that one worker holds at a time, in one transaction
    together with the claim of its worker. So there are no half-proposed trials, every sampler sees the points that are
    under way, and no number is given twice. A trial is told in one transaction, too, which takes effect only if the
    worker still has its claim.

    Args:
        study: in a relational database.
        space: the box.
        ledger: of the study, in the same database.
        proposer: makes points.
        workers: knows who is alive.
        listener: is told of takeovers and of the notes on proposals.
        check: is called while waiting; may raise.
        stale: seconds without a sign of life after which a worker's trials are taken over.
        is_early: whether it is too early, after these trials, for a warm start that has no point yet.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        ledger: Ledger,
        proposer: Proposer,
        workers: Workers,
        listener: Listener,
        check: Callable[[], None],
        stale: float = STALE_SECONDS,
        is_early: Callable[[Sequence[FrozenTrial]], bool] = lambda trials: False,
    ) -> None:
        self._study = study
        self._is_early = is_early
        self._space = space
        self._ledger = ledger
        self._engine = ledger.engine
        self._workers = workers
        self._proposer = proposer
        self._listener = listener
        name = study.study_name
        self._claims = Claims(self._engine, name, workers, stale)
        self._proposing = Lease(self._engine, name, "proposing", workers, check, min(stale, lease.STALE_SECONDS))
        self._telling = Lease(self._engine, name, "telling", workers, check)

    def enqueue(self, starts: Callable[[], Mapping[str, Point | None]], done: str) -> None:
        """Put points in front, once, in one transaction.

        Args:
            starts: gives the points by origin; None: the worker that takes the trial makes the point.
            done: the study's user attribute that says that they are there.
        """
        while True:
            with self._proposing.held():
                if done in self._study.user_attrs:
                    return
                try:
                    self._study.set_user_attr(done, self._add_starts(starts()))
                except LostLeaseError:
                    self._listener.note(_AWAY)

    def take(self, trials: int, why_stop: Callable[[int], str]) -> FrozenTrial | None:
        """A trial that is this worker's from now on.

        In this order: one that a dead worker left, a warm start, a new one.

        Args:
            trials: how many there may be, without warm starts that nobody has begun.
            why_stop: is told how many are finished before a new one is proposed; a reason ends the proposing.

        Returns:
            The trial, RUNNING; None: there is nothing to do, or nothing until other workers are done.
        """
        while True:
            with self._proposing.held():
                there = self._study.get_trials(deepcopy=False)
                taken = self._left_behind(there)
                if taken is not None:
                    return taken
                begun = [trial for trial in there if trial.state != TrialState.WAITING]
                if len(begun) >= trials:
                    return None
                try:
                    taken = self._start_waiting(there)
                    if taken is not None:
                        return taken
                    if why_stop(sum(trial.state.is_finished() for trial in begun)):
                        return None
                    return self._new(there)
                except LostLeaseError:
                    self._listener.note(_AWAY)

    def fill(self, trial: FrozenTrial, proposal: Proposal, seconds: float) -> FrozenTrial:
        """Give a trial that was enqueued without a point its point.

        Raises:
            LostTrialError: when the trial is another worker's by now.
        """
        content = content_of(self._space, proposal, {}, seconds)
        self._write(trial, content)
        return self._read(trial)

    def propose_for(self, trial: FrozenTrial, why: str) -> FrozenTrial:
        """Let the sampler make the point of a trial that was enqueued without one, and that is no warm start then.

        Raises:
            LostTrialError: when the trial is another worker's by now.
        """
        with self._proposing.held():
            begun = time.perf_counter()
            proposal = self._proposer.propose(trial.number, self._study.get_trials(deepcopy=False))
            proposal = Proposal(proposal.point, (why, *proposal.notes), proposal.kept)
            self._write(trial, content_of(self._space, proposal, {}, time.perf_counter() - begun), [ORIGIN])
        self._explain(proposal)
        return self._read(trial)

    def finish(
        self,
        trial: FrozenTrial,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> None:
        """Tell a trial's values (None: it failed) and give it its attributes and its place in the order of telling.

        Raises:
            LostTrialError: when the trial is another worker's by now.
        """
        assert values is None or all(map(math.isfinite, values))
        system = {f"{_CONSTRAINTS_KEY}:{name}": violation for name, violation in constraints.items()}

        def tell(connection: Connection) -> None:
            self._telling.lock(connection)
            if not self._claims.give_up(connection, trial.number):
                raise LostTrialError
            told = {**attributes, TOLD: count_finished(connection, self._study._study_id)}
            content = TrialContent(user_attrs=told, system_attrs=system)
            if not finish_trial(connection, trial._trial_id, values, content):
                raise LostTrialError

        self._workers.once(tell)

    def note(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """Keep attributes of a trial that is not finished, if it still is this worker's."""
        try:
            self._write(trial, TrialContent(user_attrs=attributes))
        except LostTrialError:
            return

    def finished(self) -> int:
        """How many trials are finished."""
        return transact(self._engine, lambda connection: count_finished(connection, self._study._study_id))

    def is_idle(self, trials: int) -> bool:
        """Whether no trial is under way and, of `trials` in all, none is to come before a sampler is asked."""
        there = self._study.get_trials(deepcopy=False)
        waiting = sum(trial.state == TrialState.WAITING for trial in there)
        running = sum(trial.state == TrialState.RUNNING for trial in there)
        return not running and (not waiting or len(there) - waiting >= trials)

    def leave(self) -> None:
        """Leave this worker's trials to whoever comes next."""
        self._claims.leave()

    def _add_starts(self, starts: Mapping[str, Point | None]) -> int:
        """Enqueue those that are not there, and return how many there are in all."""
        there = {trial.user_attrs.get(ORIGIN) for trial in self._study.get_trials(deepcopy=False)}
        contents = [
            TrialContent(user_attrs={ORIGIN: origin})
            if point is None
            else content_of(self._space, Proposal(point), {ORIGIN: origin})
            for origin, point in starts.items()
            if origin not in there
        ]

        def add(connection: Connection) -> None:
            self._proposing.guard(connection)
            for number, content in enumerate(contents, count_trials(connection, self._study._study_id)):
                add_trial(connection, self._study._study_id, number, TrialState.WAITING, content)

        self._workers.once(add)
        return len(starts)

    def _left_behind(self, there: Sequence[FrozenTrial]) -> FrozenTrial | None:
        for trial in there:
            if trial.state != TrialState.RUNNING:
                continue
            claim = self._claims.take_over(trial.number, self._ledger.count_of(trial.number))
            if claim is None or self._has_just_ended(trial):
                continue
            if claim.deaths < MAX_DEATHS:
                if claim.deaths:
                    self._listener.note(f"trial {trial.number} goes on: its worker is gone")
                return trial
            why = f"given up: {claim.deaths} workers died or vanished over it"
            self.finish(trial, None, {REASON: why}, {})
            self._listener.note(f"trial {trial.number} {why}")
        return None

    def _has_just_ended(self, trial: FrozenTrial) -> bool:
        """Whether its worker told the trial, and so ended its claim, after this one read the study."""

        def look(connection: Connection) -> bool:
            if is_running(connection, trial._trial_id):
                return False
            self._claims.give_up(connection, trial.number)
            return True

        return self._workers.once(look)

    def _start_waiting(self, there: Sequence[FrozenTrial]) -> FrozenTrial | None:
        for trial in there:
            if trial.state != TrialState.WAITING or (not _has_point(trial) and self._is_early(there)):
                continue
            if self._workers.once(partial(self._start, trial)):
                return self._read(trial)
        return None

    def _start(self, trial: FrozenTrial, connection: Connection) -> bool:
        self._proposing.guard(connection)
        if not start_trial(connection, trial._trial_id):
            return False
        self._claims.add(connection, trial.number)
        if ENQUEUED in trial.system_attrs and not trial.params:
            point = dict(trial.system_attrs[ENQUEUED])
            fill_trial(connection, trial._trial_id, content_of(self._space, Proposal(point), {}))
        return True

    def _new(self, there: Sequence[FrozenTrial]) -> FrozenTrial:
        begun, number = time.perf_counter(), len(there)
        proposal = self._proposer.propose(number, there)
        content = content_of(self._space, proposal, {}, time.perf_counter() - begun)
        study_id = self._study._study_id

        def add(connection: Connection) -> int:
            self._proposing.guard(connection)
            if count_trials(connection, study_id) != number:
                raise LostLeaseError
            self._claims.add(connection, number)
            return add_trial(connection, study_id, number, TrialState.RUNNING, content)

        trial_id = self._workers.once(add)
        self._explain(proposal)
        return content.frozen(number, trial_id, TrialState.RUNNING)

    def _write(self, trial: FrozenTrial, content: TrialContent, removed: Sequence[str] = ()) -> None:
        def write(connection: Connection) -> None:
            if not self._claims.confirm(connection, trial.number):
                raise LostTrialError
            fill_trial(connection, trial._trial_id, content)
            remove_attributes(connection, trial._trial_id, removed)

        self._workers.once(write)

    def _explain(self, proposal: Proposal) -> None:
        for line in proposal.notes:
            self._listener.note(line)

    def _read(self, trial: FrozenTrial) -> FrozenTrial:
        return self._study._storage.get_trial(trial._trial_id)


def _has_point(trial: FrozenTrial) -> bool:
    return bool(trial.params or PROPOSAL in trial.system_attrs or ENQUEUED in trial.system_attrs)
