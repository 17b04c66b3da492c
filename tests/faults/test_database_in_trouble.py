"""SQLite that is locked, full or damaged; and databases that cannot be opened at all."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from evomerge.errors import EvomergeError, InputError
from evomerge.search.storage import open_storage, sqlite_url
from tests.faults.conftest import Notes, at_chunk, check_whole, search
from tests.search.toy import ToyRun
from tests.servers import Network, Server, through


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    return search(tmp_path_factory.mktemp("undisturbed"))


def hold(database: Path, seconds: float) -> None:
    """Keep everybody else from writing for a while."""
    holder = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")

    def let_go() -> None:
        holder.execute("ROLLBACK")
        holder.close()

    threading.Timer(seconds, let_go).start()


def test_a_lock_is_waited_for(undisturbed: ToyRun, tmp_path: Path) -> None:
    database = tmp_path / "study.db"
    url = f"{sqlite_url(database)}?timeout=0.1"  # else sqlite itself waits longer than this test
    run = search(tmp_path, url, seconds=0.0, before=at_chunk(5, lambda: hold(database, 3.0)))
    check_whole(run, undisturbed)
    assert isinstance(run.listener, Notes)
    assert run.listener.has(r"the database is locked \(database is locked\); trying again for 60 s")


def only_as_many_pages_as_there_are(run: ToyRun) -> None:
    def limit(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # sqlite takes it for what the file has

    event.listen(run.storage.engine, "connect", limit)
    run.storage.engine.dispose()


def test_a_full_disk_ends_the_search_in_one_line_and_resume_goes_on(undisturbed: ToyRun, tmp_path: Path) -> None:
    def before(run: ToyRun) -> None:
        at_chunk(4, lambda: only_as_many_pages_as_there_are(run))(run)

    with pytest.raises(EvomergeError, match=r"its disk has no room left; make room .* resume goes on") as stopped:
        search(tmp_path, before=before)
    assert "\n" not in str(stopped.value)
    check_whole(search(tmp_path, stale=0.5), undisturbed)


def damage(database: Path, how: Callable[[bytes], bytes]) -> None:
    database.write_bytes(how(database.read_bytes()))
    for beside in database.parent.glob("study.db-*"):
        beside.unlink()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: bytes(range(256)) * 64,
    "half of it": lambda data: data[: len(data) // 2],
    "its first page": lambda data: data[:4096],
    "zeros": lambda data: data[:4096] + bytes(len(data) - 4096),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_database_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    run = ToyRun(tmp_path)
    run.storage.engine.dispose()
    damage(tmp_path / "study.db", DAMAGES[name])
    with pytest.raises(InputError, match=r"its file is (damaged|no SQLite database)") as refused:
        open_storage(sqlite_url(tmp_path / "study.db"))
    assert "\n" not in str(refused.value)


def refusal(url: str) -> str:
    with pytest.raises(InputError) as refused:
        open_storage(url)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_a_wrong_password_is_refused_without_showing_either(postgres_server: Server) -> None:
    said = refusal(postgres_server.url(password="another-secret"))
    assert "password authentication failed" in said
    assert "PGPASSWORD" in said
    assert "another-secret" not in said
    assert postgres_server.password not in said


def test_a_database_that_does_not_exist_is_to_be_created(postgres_server: Server) -> None:
    assert 'database "nowhere" does not exist; create it first' in refusal(postgres_server.url("nowhere"))


def test_a_server_that_does_not_answer_is_named(postgres_server: Server, network: Network) -> None:
    url = through(network, postgres_server.url())
    network.close()
    assert "is the server running" in refusal(url)
    assert "nowhere.invalid" in refusal("postgresql+psycopg://user:secret@nowhere.invalid/db")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("mysql+nosuchdriver://u:secret@h/d", "pip install 'evomerge[mysql]'"),
        ("postgresql+nosuchdriver://u:secret@h/d", "write postgresql+psycopg and pip install 'evomerge[postgres]'"),
        ("oracel://u:secret@h/d", "'oracel' is none of sqlite, postgresql+psycopg, mysql+pymysql"),
        ("postgresql+psycopg://u:sec/ret@h:5x/d", "special characters of the password written as %XX"),
        ("study.db", "the storage must be a URL"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, hint: str) -> None:
    said = refusal(url)
    assert hint in said
    assert "secret" not in said
    assert "sec/ret" not in said
