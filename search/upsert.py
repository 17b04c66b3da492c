"""Rows that are added unless they exist, in each dialect of SQL."""

from __future__ import annotations

from sqlalchemy import Engine, Insert, Table, insert
from sqlalchemy.dialects import postgresql, sqlite


def insert_new(engine: Engine, table: Table) -> Insert:
    """An INSERT that leaves rows alone whose primary key exists."""
    if engine.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    if engine.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return insert(table).prefix_with("IGNORE", dialect="mysql")
