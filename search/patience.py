"""Trying again while a database does not answer, and saying in one line when that is of no use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine

from evomerge.errors import EvomergeError
from evomerge.search.outages import Outage, outage

T = TypeVar("T")

LOCK_SECONDS = 60.0  # that a lock is waited for whether or not anybody is patient
_PAUSES = (0.05, 5.0)  # seconds: the first one and the longest
_TOLD_AFTER = 1.0  # seconds: what is over sooner is not worth a line
_SLICE = 0.2  # seconds between looks at a request to stop


class Patience:
    """How long whoever uses an engine goes on trying; all threads that use the engine share it.

    Attributes:
        seconds: that a database may be away; 0: an error is an error at once.
        tell: told once when the database is away, and once when it is back.
        check: called while waiting; may raise.
        recovered: when the database last came back, by the monotonic clock: nobody could show a sign of life before.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tell: Callable[[str], None] = lambda line: None
        self.check: Callable[[], None] = lambda: None
        self.recovered = 0.0
        self._since: float | None = None  # the first failure after which nothing has succeeded
        self._is_told = False

    def run(self, attempt: Callable[[], T]) -> T:
        """The result of the first attempt that the database answers.

        Args:
            attempt: may be called any number of times, also after a call whose commit succeeded and whose answer did
                not arrive.

        Raises:
            EvomergeError: when the database has not answered for `seconds`, or cannot go on at all.
            Exception: whatever else `attempt` raises, and `check`.
        """
        pause, longest = _PAUSES
        while True:
            try:
                result = attempt()
            except Exception as error:
                found = outage(error)
                if found is None:
                    raise
                self._endure(found, error)
            else:
                self._succeed()
                return result
            self._wait(pause)
            pause = min(2 * pause, longest)

    def forget(self) -> None:
        """Begin to count anew: failures before this were somebody else's."""
        self._since, self._is_told = None, False

    def _endure(self, found: Outage, error: Exception) -> None:
        """Return when it is time for another attempt. Raises EvomergeError when there is to be none."""
        if not found.passes:
            raise EvomergeError(
                f"the study's database must work, but {found.advice} ({found.reason}); what is recorded is kept, and "
                f"resume goes on from there"
            ) from error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        limit = max(self.seconds, LOCK_SECONDS) if found.is_lock else self.seconds
        away = now - self._since
        what = "is locked" if found.is_lock else "does not answer"
        if away >= limit:
            raise EvomergeError(
                f"the study's database must answer, but it {what}{_for(away)}: {found.reason}; what is recorded is "
                f"kept, and resume goes on from there"
            ) from error
        if away >= _TOLD_AFTER and not self._is_told:
            self._is_told = True
            self.tell(f"the database {what} ({found.reason}); trying again for {_duration(limit)}")

    def _succeed(self) -> None:
        if self._since is None:
            return
        now = time.monotonic()
        away, self._since, self.recovered = now - self._since, None, now
        if self._is_told:
            self._is_told = False
            self.tell(f"the database answers again, after {_duration(away)}")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self.check()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLICE))


_PATIENCE: WeakKeyDictionary[Engine, Patience] = WeakKeyDictionary()


def patience_of(engine: Engine) -> Patience:
    """The patience of an engine: none, unless `patient` gives it some."""
    return _PATIENCE.setdefault(engine, Patience())


@contextmanager
def patient(
    engine: Engine,
    seconds: float,
    tell: Callable[[str], None] = lambda line: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Let everything that uses the engine wait while its database is away.

    Args:
        engine: of the study's storage.
        seconds, tell, check: attributes of `Patience`.
    """
    patience = patience_of(engine)
    before = patience.seconds, patience.tell, patience.check
    patience.seconds, patience.tell, patience.check = seconds, tell, check
    patience.forget()
    try:
        yield
    finally:
        patience.seconds, patience.tell, patience.check = before


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """The result of `work` in a transaction that is begun again while the database is away.

    It may take effect twice, once unheard: use it for what changes nothing the second time, and `Workers.once` else.

    Raises:
        EvomergeError: as `Patience.run`.
    """

    def attempt() -> T:
        with engine.begin() as connection:
            return work(connection)

    return patience_of(engine).run(attempt)


def _for(seconds: float) -> str:
    return f" for {_duration(seconds)}" if seconds >= 1 else ""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
