"""The database of a study: Optuna's own tables, opened so that they are fast, safe, and waited for while away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from evomerge.errors import EvomergeError, InputError
from evomerge.search.outages import one_line, outage
from evomerge.search.patience import LOCK_SECONDS, patience_of
from evomerge.search.schema import check_schema
from evomerge.secrets import HIDDEN, hide, public_url

__all__ = ["open_storage", "public_url", "quiet_optuna", "sqlite_url"]

Method = TypeVar("Method", bound=Callable[..., Any])

FORM = "DIALECT+DRIVER://USER:PASSWORD@HOST:PORT/DATABASE"
_DRIVERS = {"postgresql": ("psycopg", "postgres"), "mysql": ("pymysql", "mysql")}  # by dialect: a driver, and our extra
_IDEMPOTENT = (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial",
    "_get_trials",
    "get_trial_id_from_study_id_trial_number",
    "_get_best_trial_id",
    "set_study_user_attr",
)
"""Those of Optuna's calls that evomerge makes, and that may be made again after an answer was lost."""

# Arguments of the drivers' connect(). A dead host is noticed after half a minute instead of two hours:
# https://www.postgresql.org/docs/current/libpq-connect.html, section "Parameter Key Words"
_CONNECT: Mapping[str, Mapping[str, Any]] = {
    "sqlite": {"timeout": 10},
    "psycopg": {
        "connect_timeout": 10,
        "keepalives": 1,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "evomerge",
    },
    "pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
}
# The server, too, gives up a client that is gone, and with it the rows that it had locked.
_POSTGRES_SESSION = (
    "SET lock_timeout = '30s'",
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET tcp_keepalives_idle = 15",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
)
_POOL: Mapping[str, Any] = {"pool_pre_ping": True, "pool_size": 2, "max_overflow": 4, "pool_timeout": 60}


def _patient(method: Method) -> Method:
    @wraps(method)
    def call(self: RDBStorage, *arguments: Any, **named: Any) -> Any:
        return patience_of(self.engine).run(lambda: method(self, *arguments, **named))

    return call  # type: ignore[return-value]


class PatientStorage(RDBStorage):
    """Optuna's storage, whose calls wait while the database is away, as long as `patience.patient` says.

    Calls that are not among `_IDEMPOTENT` are Optuna's own.
    """


for _name in _IDEMPOTENT:
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite database in a file."""
    return f"sqlite:///{path.resolve()}"


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at `url`, its tables and evomerge's of this version.

    SQLite gets a write-ahead log and waits for locks instead of failing. With `synchronous=NORMAL` such a log stays
    consistent through a crash of the process; only a crash of the machine can lose the last transactions, and the
    search does those again.

    Raises:
        InputError: when the URL is malformed, its driver is missing, no database answers, or it is of another version
            and cannot be brought up to date.
    """
    parsed = _parsed(url)
    try:
        storage = _opened(url, parsed)
        check_schema(storage.engine)
    except (SQLAlchemyError, StorageInternalError, ImportError, EvomergeError) as error:
        if isinstance(error, InputError):
            raise
        raise _refusal(url, parsed, error) from None
    return storage


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(
            f"the storage must be a URL such as {FORM}, special characters of the password written as %XX, but got "
            f"{public_url(url)!r}"
        ) from None


def _opened(url: str, parsed: URL) -> RDBStorage:
    """The storage; a lock, and another process that creates the same tables, are waited for."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return _open(url, parsed)
        except RuntimeError as error:
            raise InputError(_of_another_optuna(url, error)) from None
        except (SQLAlchemyError, StorageInternalError) as error:
            found = outage(error)
            is_lock = found is not None and found.is_lock
            if not (is_lock or "already exists" in str(error) or "pg_type" in str(error)) or time.monotonic() > end:
                raise
            time.sleep(0.1)


def _open(url: str, parsed: URL) -> RDBStorage:
    dialect = parsed.get_backend_name()
    kwargs: dict[str, Any] = {} if dialect == "sqlite" else dict(_POOL)
    driver = "sqlite" if dialect == "sqlite" else parsed.get_dialect().driver
    kwargs["connect_args"] = {key: value for key, value in _CONNECT.get(driver, {}).items() if key not in parsed.query}
    storage = PatientStorage(url, engine_kwargs=kwargs)
    if dialect in _TUNE:
        event.listen(storage.engine, "connect", _TUNE[dialect])
        storage.engine.dispose()
    return storage


def _refusal(url: str, parsed: URL, error: Exception) -> InputError:
    """What keeps the database from being opened, in one line without the password."""
    dialect = parsed.get_backend_name()
    rule = f"the storage must be a database that can be opened, but {public_url(url)}: "
    if isinstance(error, ImportError | NoSuchModuleError):
        driver, extra = _DRIVERS.get(dialect, ("", ""))
        if not extra:
            known = ", ".join(["sqlite", *(f"{name}+{of}" for name, (of, _) in _DRIVERS.items())])
            return InputError(f"{rule}{dialect!r} is none of {known}")
        return InputError(f"{rule}its driver is missing; write {dialect}+{driver} and pip install 'evomerge[{extra}]'")
    found = outage(error)
    cause = getattr(error, "orig", None) or error.__cause__ or error
    reason = one_line(getattr(cause, "orig", None) or cause)
    reason = hide(reason.replace(str(parsed.password), HIDDEN) if parsed.password else reason)
    if found is not None and found.advice:
        return InputError(f"{rule}{found.advice} ({reason})")
    hint = next((hint for sign, hint in _HINTS.items() if sign in reason.lower()), "")
    return InputError(f"{rule}{reason}{hint}")


_HINTS = {
    "password": "; give the password in the URL, in PGPASSWORD or in ~/.pgpass: a run's folder does not keep it",
    "access denied": "; give the password in the URL: a run's folder does not keep it",
    "does not exist": "; create it first",
    "unknown database": "; create it first",
    "refused": "; is the server running, and does it listen there?",
}


def _of_another_optuna(url: str, error: RuntimeError) -> str:
    """Optuna says which of the two is older."""
    rule = f"the database's tables must be those of Optuna {optuna.__version__}, but {public_url(url)}"
    if "storage upgrade" in str(error):
        return f"{rule} is older; copy it, then run: optuna storage upgrade --storage URL"
    return f"{rule} is newer; update Optuna"


def quiet_optuna() -> None:
    """Leave the reporting of trials to the run: Optuna's own lines show warnings only."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _tune_postgres(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        for statement in _POSTGRES_SESSION:
            cursor.execute(statement)
    connection.commit()


_TUNE: Mapping[str, Callable[[Any, object], None]] = {"sqlite": _tune_sqlite, "postgresql": _tune_postgres}
