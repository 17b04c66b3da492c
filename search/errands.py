"""Errands: scores that the worker which concludes a search needs, and that the other workers help with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from evomerge.engine.recipe import Recipe
from evomerge.evaluators import Split
from evomerge.search.patience import transact
from evomerge.search.presence import present_workers
from evomerge.search.tables import create_tables
from evomerge.search.workers import METADATA, Workers

_ROWS = Table(
    "evomerge_errands",
    METADATA,
    Column("study", String(128), primary_key=True),
    Column("errand", Integer, primary_key=True, autoincrement=False),
    Column("recipe", Text, nullable=False),
    Column("trial", Integer, nullable=True),
    Column("split", String(8), nullable=False),
    Column("rung", Integer, nullable=True),
    Column("worker", String(32), nullable=True),
)

_WAIT_SECONDS = 0.05  # between looks at errands that others are on


@dataclass(frozen=True)
class Errand:
    """A recipe to be scored on a split.

    Attributes:
        recipe: what to score.
        trial: the number of the trial that it is of; None for a baseline.
        split: on which documents.
        rung: on one rung of the split's alone; None: on all.
    """

    recipe: Recipe
    trial: int | None
    split: Split
    rung: int | None = None


class Errands:
    """The errands of one study, as one of its workers sees them.

    One worker at a time, the one that concludes the search, posts some and waits until all are done, doing what it can
    itself. What is scored is in the ledger, chunk by chunk, so nothing depends on who did it or whether it was done:
    what is missing in the end, its worker having died or the candidate having failed, is scored by who needs it.

    Args:
        engine: the database that holds the study.
        study: the study's name.
        workers: knows who is alive.
        check: is called between errands and while waiting; may raise.
        stale: seconds without a sign of life after which a worker's errand is given to another one.
    """

    def __init__(self, engine: Engine, study: str, workers: Workers, check: Callable[[], None], stale: float) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._study = study
        self._workers = workers
        self._check = check
        self._stale = stale
        self._of_study = _ROWS.c.study == study

    def has_helpers(self) -> bool:
        """Whether other workers are there."""
        found = present_workers(self._engine, self._study)
        return any(worker.worker != self._workers.me.worker for worker in found)

    def share(self, errands: Sequence[Errand], do: Callable[[Errand], None]) -> None:
        """Post errands, and come back when all are done or left to the caller. `do` does one, and tells no errors."""
        me = self._workers.me.worker
        rows = [{"study": self._study, "errand": place, **_row(errand)} for place, errand in enumerate(errands)]

        def post(connection: Connection) -> None:
            connection.execute(delete(_ROWS).where(self._of_study))  # of a worker that died while it concluded
            connection.execute(insert(_ROWS), rows)

        transact(self._engine, post)
        while self._left():
            self._check()
            if not self.help(do) and not self._take_over_dead(me):
                time.sleep(_WAIT_SECONDS)

    def help(self, do: Callable[[Errand], None]) -> bool:
        """Do one errand that nobody is on; False: there is none."""
        free = select(_ROWS.c.errand).where(self._of_study, _ROWS.c.worker.is_(None)).order_by(_ROWS.c.errand)
        places = transact(self._engine, lambda connection: connection.execute(free).scalars().all())
        for place in places:
            errand = self._take(place)
            if errand is not None:
                do(errand)
                self._finish(place)
                return True
        return False

    def _left(self) -> int:
        query = select(func.count()).where(self._of_study)
        return int(transact(self._engine, lambda connection: connection.execute(query).scalar_one()))

    def _take_over_dead(self, me: str) -> bool:
        """Free one errand whose worker is dead."""
        query = select(_ROWS.c.errand, _ROWS.c.worker).where(self._of_study, _ROWS.c.worker.is_not(None))
        for place, worker in transact(self._engine, lambda connection: connection.execute(query).all()):
            if worker == me or self._workers.is_dead(worker, self._stale):
                self._free(place, worker)
                return True
        return False

    def _free(self, place: int, worker: str) -> None:
        lost = update(_ROWS).where(self._is(place), _ROWS.c.worker == worker).values(worker=None)
        transact(self._engine, lambda connection: connection.execute(lost))

    def _finish(self, place: int) -> None:
        done = delete(_ROWS).where(self._is(place), _ROWS.c.worker == self._workers.me.worker)
        transact(self._engine, lambda connection: connection.execute(done))

    def _take(self, place: int) -> Errand | None:
        """The errand, which is this worker's from now on; None: another one was quicker."""
        mine = update(_ROWS).where(self._is(place), _ROWS.c.worker.is_(None)).values(worker=self._workers.me.worker)

        def take(connection: Connection) -> Any:
            if connection.execute(mine).rowcount != 1:
                return None
            return connection.execute(select(_ROWS).where(self._is(place))).one()

        row = self._workers.once(take)
        if row is None:
            return None
        return Errand(Recipe.model_validate_json(row.recipe), row.trial, row.split, row.rung)

    def _is(self, place: int) -> ColumnElement[bool]:
        return self._of_study & (_ROWS.c.errand == place)


def _row(errand: Errand) -> dict[str, object]:
    return {
        "recipe": errand.recipe.model_dump_json(),
        "trial": errand.trial,
        "split": errand.split,
        "rung": errand.rung,
    }
