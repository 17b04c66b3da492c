"""A lease: what only one worker of a study may do at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Column, Connection, Engine, String, Table, select, update

from evomerge.search.patience import transact
from evomerge.search.tables import create_tables, insert_new
from evomerge.search.workers import METADATA, Workers

_ROWS = Table(
    "evomerge_leases",
    METADATA,
    Column("study", String(128), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("worker", String(32), nullable=True),
)

STALE_SECONDS = 20.0
_POLL_SECONDS = (0.002, 0.02)  # the first and the longest pause between two attempts


class LostLeaseError(Exception):
    """Another worker took the lease over, since this one was not heard of for too long."""


class Lease:
    """One row in the study's database, taken by compare-and-set.

    A holder that is dead by `Workers.is_dead` is replaced. `guard` makes that safe: what a transaction does under it
    takes effect only if this worker still holds the lease when it commits.

    Args:
        engine: the database that holds the study.
        study: the study's name.
        name: of what is leased.
        workers: knows who is alive.
        check: is called between attempts; may raise.
        stale: seconds without a sign of life after which a holder is replaced.
    """

    def __init__(
        self,
        engine: Engine,
        study: str,
        name: str,
        workers: Workers,
        check: Callable[[], None] = lambda: None,
        stale: float = STALE_SECONDS,
    ) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._workers = workers
        self._check = check
        self._stale = stale
        self._is_row = (_ROWS.c.study == study) & (_ROWS.c.name == name)
        row = {"study": study, "name": name, "worker": None}
        transact(engine, lambda connection: connection.execute(insert_new(engine, _ROWS), [row]))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lease, and hold it."""
        pause, longest = _POLL_SECONDS
        while not self._take():
            self._check()
            time.sleep(pause)
            pause = min(2 * pause, longest)
        try:
            yield
        finally:
            self._swap(self._workers.me.worker, None)

    def guard(self, connection: Connection) -> None:
        """Lock the lease until the end of the connection's transaction.

        Raises:
            LostLeaseError: when another worker has it.
        """
        me = self._workers.me.worker
        mine = update(_ROWS).where(self._is_row, _ROWS.c.worker == me).values(worker=me)
        if connection.execute(mine).rowcount != 1:
            raise LostLeaseError

    def lock(self, connection: Connection) -> None:
        """Make other transactions that lock the lease wait until the connection's ends, whoever holds it."""
        connection.execute(update(_ROWS).where(self._is_row).values(worker=_ROWS.c.worker))

    def _take(self) -> bool:
        me = self._workers.me.worker
        if self._swap(None, me):
            return True
        query = select(_ROWS.c.worker).where(self._is_row)
        holder = transact(self._engine, lambda connection: connection.execute(query).scalar_one())
        if holder is None or holder == me or not self._workers.is_dead(holder, self._stale):
            return False
        return self._swap(holder, me)

    def _swap(self, old: str | None, new: str | None) -> bool:
        held_by_old = _ROWS.c.worker.is_(None) if old is None else _ROWS.c.worker == old
        swap = update(_ROWS).where(self._is_row, held_by_old).values(worker=new)
        return self._workers.once(lambda connection: connection.execute(swap).rowcount == 1)
