"""A search goes on when its database was away, and nothing that it wrote is lost or doubled."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import EvomergeError, InterruptedRunError
from evomerge.search.patience import patience_of
from tests.faults.conftest import SIZES, TRIALS, Notes, at_chunk, check_sound, check_whole, config, search
from tests.search.processes import ToyWorker, wait_until
from tests.search.toy import ToyRun
from tests.servers import Network, Server, through


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    return search(tmp_path_factory.mktemp("undisturbed"))


def outage(server: Server, seconds: float) -> Callable[[], None]:
    def begin() -> None:
        server.stop()
        timer = threading.Timer(seconds, server.start)
        timer.daemon = True
        timer.start()

    return begin


@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.exhaustive)])
def test_the_server_is_gone_for_a_while(
    seconds: float, postgres_server: Server, postgres_database: str, undisturbed: ToyRun, tmp_path: Path
) -> None:
    run = search(tmp_path, postgres_database, before=at_chunk(5, outage(postgres_server, seconds)))
    check_whole(run, undisturbed)
    assert isinstance(run.listener, Notes)
    assert run.listener.has(r"the database does not answer \(.*\); trying again for 60 s")
    assert run.listener.has("the database answers again, after")


@pytest.mark.exhaustive
@pytest.mark.parametrize("seconds", [2.0, 30.0])
def test_three_workers_lose_their_server_for_a_while(
    seconds: float, postgres_server: Server, postgres_database: str, tmp_path: Path
) -> None:
    run = ToyRun(tmp_path, config(), url=postgres_database, sizes=SIZES)

    def be_patient(run: ToyRun) -> None:
        patience_of(run.storage.engine).seconds = 120.0

    workers = [
        ToyWorker(tmp_path, config(), TRIALS, pause=0.05, before=be_patient, url=postgres_database) for _ in range(3)
    ]
    wait_until(lambda: sum(len(worker.scored) for worker in workers) > 25)
    outage(postgres_server, seconds)()
    assert [worker.end(180) for worker in workers] == [0, 0, 0]
    assert not any("its worker is gone" in line for worker in workers for line in worker.notes)
    check_sound(run)
    scored = [line for worker in workers for line in worker.scored]
    assert len(scored) - len(set(scored)) <= 30  # what was under way when a chunk could not be recorded


def test_the_network_is_cut_for_a_while(
    postgres_database: str, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    def cut() -> None:
        network.cut()
        threading.Timer(0.5, network.mend).start()

    url = through(network, postgres_database)
    check_whole(search(tmp_path, url, before=at_chunk(4, cut)), undisturbed)


@pytest.mark.exhaustive
def test_the_network_swallows_everything_for_a_while(
    postgres_database: str, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    def swallow() -> None:
        network.silence()
        threading.Timer(1.0, network.mend).start()

    url = through(network, postgres_database)
    check_whole(search(tmp_path, url, before=at_chunk(7, swallow)), undisturbed)


@pytest.mark.parametrize("commit", [11, 77])
def test_the_answer_to_a_commit_is_lost(
    commit: int, postgres_database: str, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    url = through(network, postgres_database)
    check_whole(search(tmp_path, url, before=lambda run: network.lose_answer_to(b"COMMIT", commit)), undisturbed)
    assert network.has_lost


@pytest.mark.exhaustive
def test_the_answer_to_any_commit_is_lost(
    postgres_server: Server, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    for commit in itertools.count(0, 2):
        postgres_server.execute(f"CREATE DATABASE lost_{commit}")
        url = through(network, postgres_server.url(f"lost_{commit}"))
        run = search(tmp_path, url, before=lambda run: network.lose_answer_to(b"COMMIT", commit))  # noqa: B023
        if not network.has_lost:
            break
        check_whole(run, undisturbed)
        run.storage.engine.dispose()
    assert commit > 80


@pytest.mark.exhaustive
def test_a_slow_network_changes_nothing(
    postgres_database: str, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    network.delay = 0.002
    check_whole(search(tmp_path, through(network, postgres_database)), undisturbed)


def test_a_database_that_stays_away_ends_the_search_in_one_line_and_resume_goes_on(
    postgres_database: str, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    url = through(network, postgres_database)
    with pytest.raises(EvomergeError, match=r"must answer, but it does not answer for .* resume goes on") as stopped:
        search(tmp_path, url, seconds=1.0, before=at_chunk(6, network.cut))
    assert "\n" not in str(stopped.value)
    network.mend()
    check_whole(search(tmp_path, url, stale=0.5), undisturbed)  # this process lives: it has to be missed


@pytest.mark.exhaustive
def test_a_wait_can_be_interrupted(
    postgres_database: str, network: Network, undisturbed: ToyRun, tmp_path: Path
) -> None:
    url = through(network, postgres_database)

    def before(run: ToyRun) -> None:
        def cut() -> None:
            network.cut()
            threading.Timer(0.5, run.stop.set).start()

        at_chunk(6, cut)(run)

    with pytest.raises(InterruptedRunError):
        search(tmp_path, url, before=before)
    network.mend()
    check_whole(search(tmp_path, url, stale=0.5), undisturbed)  # this process lives: it has to be missed
