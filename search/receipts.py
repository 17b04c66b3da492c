"""Transactions that take effect exactly once, also where the answer to a commit is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, delete, update

from evomerge.search.patience import patience_of, transact
from evomerge.search.tables import create_tables, insert_new

T = TypeVar("T")

METADATA = MetaData()
_ROWS = Table(
    "evomerge_receipts",
    METADATA,
    Column("study", String(128), primary_key=True),
    Column("worker", String(32), primary_key=True),
    Column("last", Integer, nullable=False),
)


class Receipts:
    """The transactions of one worker, in one thread, which it numbers.

    The number of the last one that was committed is a row that each of them raises first. An attempt that finds its own
    number there was committed before, unheard; nothing is done then. Until an earlier attempt has ended in the server,
    however its client fared, the row is locked and a later one waits.

    Args:
        engine: the database that holds the study.
        study: the study's name.
        worker: the worker's.
    """

    def __init__(self, engine: Engine, study: str, worker: str) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._row = {"study": study, "worker": worker, "last": 0}
        self._mine = (_ROWS.c.study == study) & (_ROWS.c.worker == worker)
        self._last = 0
        self._is_there = False

    def once(self, work: Callable[[Connection], T]) -> T:
        """The result of `work` in a transaction, which has taken effect once when this returns.

        Args:
            work: changes nothing but the database, since it may have to be begun again.

        Raises:
            EvomergeError: as `Patience.run`; whether the last attempt took effect is not known then.
            Exception: what `work` raises; nothing has taken effect.
        """
        self._begin()
        self._last += 1
        number, results = self._last, list[T]()

        def attempt() -> T:
            with self._engine.begin() as connection:
                raised = update(_ROWS).where(self._mine, _ROWS.c.last < number).values(last=number)
                if connection.execute(raised).rowcount == 1:
                    results[:] = [work(connection)]
            return results[0]

        return patience_of(self._engine).run(attempt)

    def clear(self, connection: Connection) -> None:
        """Forget the worker's transactions: it has ended."""
        connection.execute(delete(_ROWS).where(self._mine))
        self._last, self._is_there = 0, False

    def _begin(self) -> None:
        if not self._is_there:
            transact(self._engine, lambda connection: connection.execute(insert_new(self._engine, _ROWS), [self._row]))
            self._is_there = True
