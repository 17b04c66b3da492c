"""The version of the tables beside Optuna's: older ones are brought up to date, newer ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, inspect, select, update

from evomerge.errors import InputError
from evomerge.search.patience import transact
from evomerge.search.tables import create_tables, insert_new

VERSION = 2

_METADATA = MetaData()
_ROWS = Table(
    "evomerge_schema",
    _METADATA,
    Column("name", String(16), primary_key=True),
    Column("version", Integer, nullable=False),
)
_NAME = "tables"
_LEDGER = "evomerge_ledger"
"""A table that every version has. Version 1 is evomerge 0.1's, which kept no version."""

_CLAIMS = "evomerge_claims"

Step = Callable[[Connection], None]


def _to_2(connection: Connection) -> None:
    """Claims know what was scored when they were made. Tables that are new are created by whoever needs them."""
    there = inspect(connection)
    if there.has_table(_CLAIMS) and "scored" not in {column["name"] for column in there.get_columns(_CLAIMS)}:
        connection.exec_driver_sql(f"ALTER TABLE {_CLAIMS} ADD COLUMN scored INTEGER DEFAULT 0 NOT NULL")


STEPS: Mapping[int, Step] = {2: _to_2}
"""What turns the tables of the version before into those of a version."""


def check_schema(engine: Engine) -> None:
    """Bring the tables of an older version up to date in place, in one transaction; a new database gets the version.

    Raises:
        InputError: when the tables are of a newer version.
    """
    found = version_of(engine)
    if found == VERSION:
        return
    if found is None:
        _stamp(engine, VERSION)
        return
    if found > VERSION:
        raise InputError(
            f"the database's tables must be of version {VERSION} or older, but they are of version {found}, which a "
            f"newer evomerge has made; update evomerge"
        )
    _stamp(engine, found)
    transact(engine, _migrate)


def version_of(engine: Engine) -> int | None:
    """The version of the tables; None: there are none of evomerge's."""
    names = transact(engine, lambda connection: inspect(connection).get_table_names())
    if _ROWS.name in names:
        found = transact(engine, lambda connection: connection.execute(_QUERY).scalar_one_or_none())
        if found is not None:
            return int(found)
    return 1 if _LEDGER in names else None


def _stamp(engine: Engine, version: int) -> None:
    """Write down the version of tables that have none yet."""
    create_tables(engine, _METADATA)
    row = {"name": _NAME, "version": version}
    transact(engine, lambda connection: connection.execute(insert_new(engine, _ROWS), [row]))


_QUERY = select(_ROWS.c.version).where(_ROWS.c.name == _NAME)


def _migrate(connection: Connection) -> None:
    """Take the steps that are left; whoever does the same at the same time waits for the row, and finds none."""
    connection.execute(update(_ROWS).where(_ROWS.c.name == _NAME).values(version=_ROWS.c.version))
    found = int(connection.execute(_QUERY).scalar_one())
    for version in range(found + 1, VERSION + 1):
        STEPS[version](connection)
    connection.execute(update(_ROWS).where(_ROWS.c.name == _NAME).values(version=max(found, VERSION)))
