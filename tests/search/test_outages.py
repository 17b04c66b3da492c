"""What errors of the three kinds of databases mean."""

from __future__ import annotations

import sqlite3

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from evomerge.errors import EvomergeError, InterruptedRunError
from evomerge.search.outages import outage
from evomerge.search.patience import Patience, patient, transact


class PostgresError(Exception):
    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(f"FATAL: {sqlstate}\nDETAIL: more")
        self.sqlstate = sqlstate


def of_sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("it says so")
    error.sqlite_errorcode = code
    return error


LOCKED, GONE, BROKEN, OTHER = "locked", "gone", "broken", "other"
CASES = [
    (of_sqlite(sqlite3.SQLITE_BUSY), LOCKED),
    (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), LOCKED),
    (of_sqlite(sqlite3.SQLITE_FULL), BROKEN),
    (of_sqlite(sqlite3.SQLITE_IOERR_WRITE), BROKEN),
    (of_sqlite(sqlite3.SQLITE_READONLY_DBMOVED), BROKEN),
    (of_sqlite(sqlite3.SQLITE_ERROR), OTHER),
    (PostgresError("40001"), LOCKED),
    (PostgresError("40P01"), LOCKED),
    (PostgresError("55P03"), LOCKED),
    (PostgresError("57P01"), GONE),
    (PostgresError("08006"), GONE),
    (PostgresError("25P03"), GONE),
    (PostgresError(None), GONE),
    (PostgresError("53100"), BROKEN),
    (PostgresError("25006"), BROKEN),
    (PostgresError("42P01"), OTHER),
    (Exception(1205, "Lock wait timeout exceeded"), LOCKED),
    (Exception(1213, "Deadlock found"), LOCKED),
    (Exception(2013, "Lost connection"), GONE),
    (Exception(1021, "Disk full"), BROKEN),
    (Exception(1146, "no such table"), OTHER),
]


@pytest.mark.parametrize(("cause", "means"), CASES, ids=str)
def test_codes(cause: Exception, means: str) -> None:
    of_ours = OperationalError("SELECT 1", {}, cause)
    of_optuna = StorageInternalError("An exception is raised during the commit.")
    of_optuna.__cause__ = of_ours
    for error in (of_ours, of_optuna):
        found = outage(error)
        if found is None:
            assert means == OTHER
            continue
        assert "\n" not in found.reason
        told = LOCKED if found.is_lock else GONE if found.passes else BROKEN
        assert told == means
        assert bool(found.advice) == (means == BROKEN)


@pytest.mark.parametrize("kind", [IntegrityError, ProgrammingError])
def test_what_a_program_did_wrong_is_no_outage(kind: type[OperationalError]) -> None:
    assert outage(kind("INSERT", {}, sqlite3.IntegrityError("UNIQUE"))) is None
    assert outage(ValueError("x")) is None


GONE_ERROR = OperationalError("SELECT 1", {}, PostgresError("57P01"))


def test_patience_ends_and_is_not_begun_again_by_what_cleans_up() -> None:
    patience = Patience()
    patience.seconds = 0.3
    calls: list[int] = []

    def attempt() -> None:
        calls.append(1)
        raise GONE_ERROR

    with pytest.raises(EvomergeError, match="must answer, but it does not answer"):
        patience.run(attempt)
    assert len(calls) > 2
    before = len(calls)
    with pytest.raises(EvomergeError):
        patience.run(attempt)
    assert len(calls) == before + 1
    assert patience.run(lambda: 7) == 7


def test_a_wait_looks_at_requests_to_stop() -> None:
    patience = Patience()
    patience.seconds = 60.0

    def check() -> None:
        raise InterruptedRunError("stop")

    def attempt() -> None:
        raise GONE_ERROR

    patience.check = check
    with pytest.raises(InterruptedRunError):
        patience.run(attempt)


def test_patience_is_given_for_a_while() -> None:
    engine = create_engine("sqlite://")
    failures = [GONE_ERROR, GONE_ERROR]
    lines: list[str] = []

    def work(connection: object) -> int:
        if failures:
            raise failures.pop()
        return 3

    with patient(engine, 5.0, tell=lines.append):
        assert transact(engine, work) == 3
    assert lines == []  # it was over at once
    failures.append(GONE_ERROR)
    with pytest.raises(EvomergeError):
        transact(engine, work)
