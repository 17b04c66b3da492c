"""The versions of a database's tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from sqlalchemy import Engine, text

from evomerge.errors import InputError
from evomerge.search import schema
from evomerge.search.storage import open_storage, sqlite_url
from tests.search.toy import ToyRun, toy_config

FEW = toy_config(search={"sampler": "random", "trials": 4, "seed": 3, "warm_start": []})


def change(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_a_new_database_has_the_version(tmp_path: Path) -> None:
    assert schema.version_of(open_storage(sqlite_url(tmp_path / "study.db")).engine) == schema.VERSION


def test_a_study_of_version_1_goes_on(tmp_path: Path) -> None:
    """What evomerge 0.1 left has neither a version nor what later versions added."""
    for folder in ("whole", "older"):
        (tmp_path / folder).mkdir()
    whole = ToyRun(tmp_path / "whole", FEW)
    whole.run(4)
    older = ToyRun(tmp_path / "older", FEW)
    older.run(2)
    change(
        older.storage.engine,
        "DROP TABLE evomerge_schema",
        "DROP TABLE evomerge_receipts",
        "ALTER TABLE evomerge_claims DROP COLUMN scored",
    )
    assert schema.version_of(older.storage.engine) == 1
    later = ToyRun(tmp_path / "older", FEW)
    assert schema.version_of(later.storage.engine) == schema.VERSION
    later.run(4)
    assert later.history() == whole.history()


def test_each_step_between_versions_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    engine = open_storage(sqlite_url(tmp_path / "study.db")).engine
    monkeypatch.setattr(schema, "VERSION", 4)
    monkeypatch.setattr(schema, "STEPS", {version: lambda _, n=version: taken.append(n) for version in (2, 3, 4)})
    for _ in range(2):
        schema.check_schema(engine)
    assert taken == [3, 4]
    assert schema.version_of(engine) == 4


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    engine = open_storage(sqlite_url(tmp_path / "study.db")).engine
    change(engine, f"UPDATE evomerge_schema SET version = {schema.VERSION + 1}")
    with pytest.raises(InputError, match=r"are of version \d+, which a newer evomerge has made; update evomerge"):
        open_storage(sqlite_url(tmp_path / "study.db"))


@pytest.mark.parametrize(
    ("revision", "hint"),
    [("v2.6.0.a", "is older; copy it, then run: optuna storage upgrade"), ("v99", "is newer; update Optuna")],
)
def test_tables_of_another_optuna_are_refused(revision: str, hint: str, tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    change(RDBStorage(url).engine, f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(InputError, match=hint):
        open_storage(url)


def test_the_database_has_a_write_ahead_log(tmp_path: Path) -> None:
    with open_storage(sqlite_url(tmp_path / "study.db")).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1


def test_postgres_gives_up_clients_that_are_gone(postgres_database: str) -> None:
    with open_storage(postgres_database).engine.connect() as connection:
        for name, value in {"lock_timeout": "30s", "idle_in_transaction_session_timeout": "1min"}.items():
            assert connection.exec_driver_sql(f"SHOW {name}").scalar_one() == value
