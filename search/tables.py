"""Tables beside Optuna's in the study's database, and rows that are added unless they exist."""

from __future__ import annotations

from sqlalchemy import Engine, Insert, MetaData, Table, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from evomerge.search.patience import patience_of

_ATTEMPTS = 5


def create_tables(engine: Engine, metadata: MetaData) -> None:
    """Create the tables that do not exist, while other workers may do the same."""
    for attempt in range(_ATTEMPTS):
        try:
            patience_of(engine).run(lambda: metadata.create_all(engine))
        except DatabaseError:  # another worker was quicker with one of them
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def insert_new(engine: Engine, table: Table) -> Insert:
    """An INSERT that leaves rows alone whose primary key exists."""
    if engine.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if engine.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return insert(table).prefix_with("IGNORE", dialect="mysql")
