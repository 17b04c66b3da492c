"""Claims: which worker each running trial belongs to, and how many workers died over it."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Engine, Integer, String, Table, delete, insert, select, update

from evomerge.search.patience import transact
from evomerge.search.tables import create_tables
from evomerge.search.workers import METADATA, Workers

_ROWS = Table(
    "evomerge_claims",
    METADATA,
    Column("study", String(128), primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("worker", String(32), nullable=True),
    Column("deaths", Integer, nullable=False),
    Column("scored", Integer, nullable=False, default=0, server_default="0"),
)

STALE_SECONDS = 60.0
MAX_DEATHS = 3  # of workers in a row, none of which scored a document, after which a trial is given up


class Claim(NamedTuple):
    """Who works on a trial.

    Attributes:
        worker: its name; None: nobody, since it was left in good order.
        deaths: how many died or vanished over it in a row, without a document scored in between.
        scored: how many rows of the ledger the trial had when the worker took it.
    """

    worker: str | None
    deaths: int
    scored: int = 0


class Claims:
    """The claims of one study.

    Args:
        engine: the database that holds the study.
        study: the study's name.
        workers: knows who is alive.
        stale: seconds without a sign of life after which a worker's trials are taken over.
    """

    def __init__(self, engine: Engine, study: str, workers: Workers, stale: float = STALE_SECONDS) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._study = study
        self._workers = workers
        self._stale = stale

    def add(self, connection: Connection, trial: int) -> None:
        """Claim a trial that nobody has claimed, as part of the connection's transaction."""
        row = {"study": self._study, "trial": trial, "worker": self._workers.me.worker, "deaths": 0}
        connection.execute(insert(_ROWS).values(**row))

    def of(self, trial: int) -> Claim | None:
        """The claim on a trial; None: nobody ever had one."""
        query = select(_ROWS.c.worker, _ROWS.c.deaths, _ROWS.c.scored).where(self._is(trial))
        row = transact(self._engine, lambda connection: connection.execute(query).one_or_none())
        return None if row is None else Claim(*row)

    def take_over(self, trial: int, scored: int = 0) -> Claim | None:
        """Claim a running trial whose worker left, is dead, or has not been heard of; None: it is somebody else's.

        One that is this worker's already it may have finished in a transaction that a crash of the server took back.

        Args:
            trial: its number.
            scored: how many rows of the ledger it has.
        """
        found = self.of(trial)
        if found is None:
            self._workers.once(lambda connection: self.add(connection, trial))
            return Claim(self._workers.me.worker, 0)
        if found.worker == self._workers.me.worker:
            return found
        before = 0 if scored > found.scored else found.deaths
        if found.worker is None:
            taken = Claim(self._workers.me.worker, before, scored)
        elif self._workers.is_dead(found.worker, self._stale):
            taken = Claim(self._workers.me.worker, before + 1, scored)
        else:
            return None
        held = _ROWS.c.worker.is_(None) if found.worker is None else _ROWS.c.worker == found.worker
        swap = update(_ROWS).where(self._is(trial), held).values(taken._asdict())
        is_mine = self._workers.once(lambda connection: connection.execute(swap).rowcount == 1)
        return taken if is_mine else None

    def confirm(self, connection: Connection, trial: int) -> bool:
        """Whether the claim is this worker's, and stays it until the end of the connection's transaction."""
        me = self._workers.me.worker
        mine = update(_ROWS).where(self._is(trial), _ROWS.c.worker == me).values(worker=me)
        return connection.execute(mine).rowcount == 1

    def give_up(self, connection: Connection, trial: int) -> bool:
        """End this worker's claim as part of the connection's transaction; False: it has none any more."""
        mine = delete(_ROWS).where(self._is(trial), _ROWS.c.worker == self._workers.me.worker)
        return connection.execute(mine).rowcount == 1

    def leave(self) -> None:
        """Leave all of this worker's trials to whoever comes next."""
        mine = (_ROWS.c.study == self._study) & (_ROWS.c.worker == self._workers.me.worker)
        transact(self._engine, lambda connection: connection.execute(update(_ROWS).where(mine).values(worker=None)))

    def _is(self, trial: int) -> ColumnElement[bool]:
        return (_ROWS.c.study == self._study) & (_ROWS.c.trial == trial)
