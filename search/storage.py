"""The database of a study: Optuna's own tables, opened so that they are fast and safe on one host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from evomerge.errors import InputError


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite database in a file."""
    return f"sqlite:///{path.resolve()}"


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at `url`. SQLite gets a write-ahead log and waits for locks instead of failing.

    With `synchronous=NORMAL` a write-ahead log stays consistent through a crash of the process; only a crash of
    the machine can lose the last transactions, and the search does those again.

    Raises:
        InputError: when the URL is malformed, its driver is missing, or no database answers.
    """
    is_sqlite = url.startswith("sqlite")
    try:
        storage = RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": 60}} if is_sqlite else {"pool_pre_ping": True},
        )
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the storage must be a database that can be opened, but {public_url(url)}: {reason}"
        ) from None
    if is_sqlite:
        event.listen(storage.engine, "connect", _tune_sqlite)
        storage.engine.dispose()
    return storage


def quiet_optuna() -> None:
    """Leave the reporting of trials to the run: Optuna's own lines show warnings only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def public_url(url: str) -> str:
    """The URL without its password."""
    scheme, _, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}://{credentials.split(':')[0]}{at}{host}" if at else url
