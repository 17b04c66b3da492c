"""The process that starts workers, shows what they do, starts those again that die, and ends with them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from evomerge.errors import EvomergeError, InputError, InterruptedRunError
from evomerge.runs.launchers.order import RESTARTS, Order, Outcome
from evomerge.runs.run import Run
from evomerge.search.following import Following
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.search.messages import Messages
from evomerge.search.patience import patient
from evomerge.search.rounds import Round, is_over
from evomerge.search.study import study_tasks

_LOOK_SECONDS = 0.5
_SHARE = 0.03  # of a core that looking may take from the workers


class Handle(Protocol):
    """A worker that has been started.

    Attributes:
        where: its log can be found.
    """

    where: str

    def outcome(self) -> Outcome | None:
        """How it ended; None: it is running."""

    def stop(self) -> None:
        """Ask it to stop at the next chunk of documents."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """A way to start workers."""

    def start(self, order: Order) -> Handle:
        """Start one."""

    def close(self) -> None:
        """Give back what it holds; its workers have ended."""


def supervise(
    run: Run, launcher: Launcher, orders: Sequence[Order], found: Round, listener: Listener, stop: StopRequest
) -> None:
    """Let workers carry out orders until the round has its result, and tell the listener of all trials and messages.

    Raises:
        InputError: a worker says that the input is wrong.
        InterruptedRunError: somebody asked to stop; all workers have stopped.
        EvomergeError: no worker is left, and the round has no result.
    """
    crew = [_Member(launcher, order, listener) for order in orders]
    try:
        with patient(run.storage.engine, run.config.runtime.patience, listener.note, stop.check):
            _watch(run, crew, found, listener, stop)
    finally:
        for member in crew:
            member.kill()
        launcher.close()
    if stop.is_set:
        raise InterruptedRunError("interrupted; everything scored so far is kept")
    if not is_over(run.study, found):
        reasons = list(dict.fromkeys(member.reason for member in crew if member.reason))
        raise EvomergeError(f"a search must have a worker, but none is left: {'; '.join(reasons)}")


def _watch(run: Run, crew: Sequence[_Member], found: Round, listener: Listener, stop: StopRequest) -> None:
    """Until all have ended."""
    engine, tasks = run.storage.engine, study_tasks(run.study)
    following = Following(run.study, engine, tasks, listener, counts_documents=True)
    messages = Messages(engine, run.study.study_name, listener)
    listener.stage("search", found.trials, following.look())
    began, is_asked = time.monotonic(), False
    for member in crew:
        member.start(0.0)
    while any(member.is_running for member in crew):
        if stop.is_set and not is_asked:
            is_asked = True
            for member in crew:
                member.stop()
        looked = time.process_time()
        with _unless_stopped(stop):
            following.look()
            messages.look()
        for member in crew:
            member.look(time.monotonic() - began, may_restart=not stop.is_set)
        pause = max(_LOOK_SECONDS, (time.process_time() - looked) / _SHARE)
        if is_asked:
            time.sleep(_LOOK_SECONDS)
        else:
            stop.wait(pause)
    with _unless_stopped(stop):
        following.look()
        messages.look()


@contextlib.contextmanager
def _unless_stopped(stop: StopRequest) -> Iterator[None]:
    """A request to stop is no error here: the workers are waited for first."""
    try:
        yield
    except EvomergeError:
        if not stop.is_set:
            raise


class _Member:
    """One worker, over all its starts."""

    def __init__(self, launcher: Launcher, order: Order, listener: Listener) -> None:
        self._launcher = launcher
        self._order = order
        self._listener = listener
        self._handle: Handle | None = None
        self._starts = 0
        self.reason = ""  # why it ended without a result

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float) -> None:
        """Start it, so many seconds after the first one."""
        self._starts += 1
        self._handle = self._launcher.start(self._order.within(seconds))

    def look(self, seconds: float, may_restart: bool) -> None:
        """See whether it has ended, and start it again if that may help. Raises InputError if it says so."""
        if self._handle is None or (outcome := self._handle.outcome()) is None:
            return
        where, self._handle = self._handle.where, None
        if outcome.code == 2:
            raise InputError(outcome.error)
        if outcome.code == 0:
            return
        self.reason = outcome.error or "asked to stop"
        if not may_restart:
            return
        name = f"worker {self._order.index}"
        if outcome.is_final or outcome.code == 130:
            self._listener.note(f"{name} has ended: {self.reason}")
        elif self._starts > RESTARTS:
            self._listener.note(f"{name} is given up after {self._starts} starts: {self.reason}; see {where}")
        else:
            self._listener.note(f"{name} has died and is started again: {self.reason}; see {where}")
            self.start(seconds)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.stop()

    def kill(self) -> None:
        if self._handle is not None:
            self._handle.kill()
            self._handle = None
