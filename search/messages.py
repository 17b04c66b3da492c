"""What workers have to say to whoever shows the search's progress, through the study's database."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import Column, Engine, Integer, String, Table, Text, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from evomerge.search.listener import Listener
from evomerge.search.patience import transact
from evomerge.search.tables import create_tables
from evomerge.search.workers import METADATA

_ROWS = Table(
    "evomerge_messages",
    METADATA,
    Column("message", Integer, primary_key=True, autoincrement=True),
    Column("study", String(128), nullable=False, index=True),
    Column("kind", String(8), nullable=False),
    Column("content", Text, nullable=False),
)

_WINDOW = 200  # numbers below the highest one seen that may still come: a transaction takes its number before it ends
_STEPS_SECONDS = 1.0  # between two reports of single steps


class Poster(Listener):
    """Writes notes, and the stages after the trials with their steps, into the study's database.

    Trials are in the study anyway. A message that the database does not take at once is lost: a search neither ends nor
    waits for it, least of all for the message that the database is away.

    Args:
        engine: the database that holds the study.
        study: the study's name.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._study = study
        self._stage = ""
        self._steps = 0
        self._sent = time.monotonic()

    def note(self, text: str) -> None:
        """Post it."""
        self._post("note", {"text": text})

    def stage(self, name: str, total: int, done: int) -> None:
        """Post it, unless it is that of the trials, which everybody enters."""
        self._flush()
        self._stage = name
        if name != "search":
            self._post("stage", {"name": name, "total": total, "done": done})

    def step(self) -> None:
        """Count it; counts are posted every second."""
        self._steps += self._stage != "search"
        if time.monotonic() - self._sent >= _STEPS_SECONDS:
            self._flush()

    def close(self, why: str) -> None:
        """Post what has been counted."""
        self._flush()

    def _flush(self) -> None:
        self._sent = time.monotonic()
        steps, self._steps = self._steps, 0
        if steps:
            self._post("steps", {"count": steps})

    def _post(self, kind: str, content: dict[str, Any]) -> None:
        row = {"study": self._study, "kind": kind, "content": json.dumps(content)}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_ROWS), row)
        except SQLAlchemyError:
            return


class Messages:
    """Passes messages of all workers of a study on to a listener, from those on that are posted from now on.

    Args:
        engine: the database that holds the study.
        study: the study's name.
        listener: is told.
    """

    def __init__(self, engine: Engine, study: str, listener: Listener) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._study = study
        self._listener = listener
        query = select(func.max(_ROWS.c.message))
        highest = transact(engine, lambda connection: connection.execute(query).scalar_one())
        self._begin = self._highest = int(highest or 0)
        self._seen: set[int] = set()

    def look(self) -> None:
        """Pass on what is new, in the order in which it was posted."""
        since = max(self._begin, self._highest - _WINDOW)
        query = select(_ROWS.c.message, _ROWS.c.kind, _ROWS.c.content).where(
            _ROWS.c.study == self._study, _ROWS.c.message > since
        )
        rows = transact(self._engine, lambda connection: connection.execute(query.order_by(_ROWS.c.message)).all())
        for row in rows:
            if row.message not in self._seen:
                self._tell(row.kind, json.loads(row.content))
        self._seen = {row.message for row in rows}
        self._highest = max(self._seen, default=self._highest)

    def _tell(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "note":
            self._listener.note(content["text"])
        elif kind == "stage":
            self._listener.stage(content["name"], content["total"], content["done"])
        elif kind == "steps":
            for _ in range(content["count"]):
                self._listener.step()
