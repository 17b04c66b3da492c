"""What an error of a database means: whether it passes, and what a person can do where it does not."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError

_SQLITE_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_SQLITE_BROKEN = {
    sqlite3.SQLITE_FULL: "its disk has no room left; make room",
    sqlite3.SQLITE_READONLY: "it may not be written; give this account the right to write it and its folder",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened; give this account the right to write it and its folder",
    sqlite3.SQLITE_IOERR: "its disk fails or has no room left; look at the disk",
    sqlite3.SQLITE_CORRUPT: "its file is damaged; put a copy back, or let sqlite3's .recover save what it can",
    sqlite3.SQLITE_NOTADB: "its file is no SQLite database; put a copy back",
}
# SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES_LOCKED = ("40", "55P03")  # transaction rollback: serialization, deadlock; a lock that was waited for too long
_POSTGRES_GONE = ("08", "57P", "53300", "25P03", "58")  # connections, shutdowns, too many clients, an idle transaction
_POSTGRES_BROKEN = {
    "53100": "its server's disk has no room left; make room",
    "53200": "its server has no memory left",
    "25006": "its server is a copy that may only be read; name the primary server",
    "42501": "its user may not do that; grant the right",
}
# https://dev.mysql.com/doc/mysql-errors/8.4/en/
_MYSQL_LOCKED = {1205, 1213}
_MYSQL_GONE = {1040, 1053, 1927, 2002, 2003, 2006, 2013, 2055, 4031}
_MYSQL_BROKEN = {1021: "its server's disk has no room left; make room", 1114: "its server has no room left; make room"}


class Outage(NamedTuple):
    """Why a database did not do what it was asked.

    Attributes:
        passes: whether to try again.
        is_lock: whether it answers and something else holds what is needed.
        reason: in one line, without what SQLAlchemy adds.
        advice: what is wrong and what to do about it; "" where that is unknown.
    """

    passes: bool
    is_lock: bool
    reason: str
    advice: str = ""


def outage(error: BaseException) -> Outage | None:
    """What an error of SQLAlchemy or of Optuna's storage says about the database; None: it says nothing."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, NoConnectionError | DisconnectionError):
        return Outage(True, False, one_line(error))
    if not isinstance(error, DBAPIError):
        return None
    cause = error.orig
    reason = one_line(cause or error)
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause, reason)
    state = getattr(cause, "sqlstate", None)
    if isinstance(state, str):
        return _of_postgres(state, reason, error.connection_invalidated)
    number = cause.args[0] if cause is not None and cause.args else None
    if isinstance(number, int):
        return _of_mysql(number, reason, error.connection_invalidated)
    is_gone = error.connection_invalidated or type(error).__name__ in ("OperationalError", "InterfaceError")
    return Outage(True, False, reason) if is_gone else None


def is_outage(error: BaseException) -> bool:
    """Whether the error comes from a database, whichever it is."""
    return isinstance(error, SQLAlchemyError | StorageInternalError)


def one_line(error: BaseException) -> str:
    """The text of an error in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _of_sqlite(cause: sqlite3.Error, reason: str) -> Outage | None:
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:
        return None
    primary = code & 0xFF  # extended codes keep the primary one in their lowest byte: https://sqlite.org/rescode.html
    if primary in _SQLITE_LOCKED:
        return Outage(True, True, reason)
    return Outage(False, False, reason, _SQLITE_BROKEN[primary]) if primary in _SQLITE_BROKEN else None


def _of_postgres(state: str, reason: str, is_invalid: bool) -> Outage | None:
    if state in _POSTGRES_BROKEN:
        return Outage(False, False, reason, _POSTGRES_BROKEN[state])
    if state.startswith(_POSTGRES_LOCKED):
        return Outage(True, True, reason)
    return Outage(True, False, reason) if is_invalid or state.startswith(_POSTGRES_GONE) else None


def _of_mysql(number: int, reason: str, is_invalid: bool) -> Outage | None:
    if number in _MYSQL_BROKEN:
        return Outage(False, False, reason, _MYSQL_BROKEN[number])
    if number in _MYSQL_LOCKED:
        return Outage(True, True, reason)
    return Outage(True, False, reason) if is_invalid or number in _MYSQL_GONE else None
