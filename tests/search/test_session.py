"""Several workers on one study, from its launch to its answer."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import InterruptedRunError
from evomerge.search.config import SearchConfig
from evomerge.search.errands import Errand, Errands
from evomerge.search.listener import Listener
from evomerge.search.messages import Messages, Poster
from evomerge.search.presence import is_worked_on
from evomerge.search.rounds import current_round, open_round, why_closed
from evomerge.search.session import search, work
from evomerge.search.study import RESULT, SAMPLER, SUBSET
from evomerge.search.workers import METADATA, Workers
from tests.search.processes import Lines, ToyWorker, wait_until
from tests.search.toy import ToyRun, toy_config

TRIALS = 12
SIZES: dict[Any, int] = {"search": 12, "select": 12, "report": 12}


def config(stale: float = 45.0, evaluate: dict[str, Any] | None = None, **search: Any) -> SearchConfig:
    section = {"sampler": "random", "trials": TRIALS, "seed": 3, "warm_start": [], "finalists": 4, **search}
    found = toy_config(search=section, evaluate=evaluate or {})
    return found.model_copy(update={"runtime": found.runtime.model_copy(update={"stale": stale})})


@pytest.fixture(autouse=True)
def _no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.search.problem.Problem.fingerprint", lambda problem: {"models.base": "toy"})


class SessionWorker(ToyWorker):
    """Works on a study that has been launched, and writes down the result."""

    def __init__(self, folder: Path, config: SearchConfig, timeout: float | None = None, **options: Any) -> None:
        def do(run: ToyRun) -> None:
            result = work(run.problem, run.study, run.storage.engine, run.listener, run.stop, timeout)
            (folder / f"result-{os.getpid()}").write_text(json.dumps(result))

        super().__init__(folder, config, 0, do=do, sizes=SIZES, **options)

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._folder / f"result-{self.process.pid}").read_text())
        return found


def launched(folder: Path, config: SearchConfig, trials: int = TRIALS, url: str | None = None) -> ToyRun:
    folder.mkdir(exist_ok=True)
    run = ToyRun(folder, config, sizes=SIZES, url=url)
    open_round(run.study, trials)
    return run


def alone(folder: Path, config: SearchConfig) -> tuple[ToyRun, dict[str, Any]]:
    run = launched(folder, config)
    return run, work(run.problem, run.study, run.storage.engine, Listener(), run.stop)


def test_two_workers_share_trials_finalists_and_comparison_and_say_the_same(tmp_path: Path) -> None:
    # random proposals are the same whoever asks
    _, expected = alone(tmp_path / "alone", config())
    run = launched(tmp_path / "two", config())
    workers = [SessionWorker(tmp_path / "two", config(), pause=0.05) for _ in range(2)]
    assert [worker.end() for worker in workers] == [0, 0]
    assert [worker.result for worker in workers] == [expected, expected]
    assert json.loads(json.dumps(run.study.user_attrs[RESULT])) == expected
    scored = [line for worker in workers for line in worker.scored]
    assert len(scored) == len(set(scored))
    for split in ("search", "select", "report"):
        shares = [sum(f" {split}" in line for line in worker.scored) for worker in workers]
        assert min(shares) > 0, (split, shares)


def test_workers_meet_in_postgresql_and_one_that_is_killed_is_replaced(postgres_database: str, tmp_path: Path) -> None:
    _, expected = alone(tmp_path / "alone", config())
    run = launched(tmp_path / "two", config(), url=postgres_database)
    workers = [SessionWorker(tmp_path / "two", config(), pause=0.03, url=postgres_database) for _ in range(3)]
    wait_until(lambda: len(workers[0].scored) > 30)
    workers[0].send(signal.SIGKILL)
    assert [worker.end() for worker in workers] == [-signal.SIGKILL, 0, 0]
    assert [worker.result for worker in workers[1:]] == [expected, expected]
    assert [trial.state.name for trial in run.study.get_trials()] == ["COMPLETE"] * TRIALS


@pytest.mark.parametrize("split", ["select", "report"])
def test_another_worker_concludes_when_the_first_is_killed_over_it(split: str, tmp_path: Path) -> None:
    _, expected = alone(tmp_path / "alone", config())
    run = launched(tmp_path / "two", config())

    def die(toy: ToyRun) -> None:
        def look(done: int) -> None:
            if any(f" {split}" in line for line in Lines(tmp_path / "two" / f"scored-{os.getpid()}").read()):
                os.kill(os.getpid(), signal.SIGKILL)

        toy.evaluator.before_chunk = look

    assert SessionWorker(tmp_path / "two", config(), before=die).end() == -signal.SIGKILL
    second = SessionWorker(tmp_path / "two", config())
    assert second.end() == 0
    assert second.result == expected
    assert run.study.user_attrs[RESULT]["winner"]["number"] == expected["winner"]["number"]


@pytest.mark.exhaustive
def test_a_worker_that_was_stopped_while_it_concluded_says_what_another_one_did(tmp_path: Path) -> None:
    patient = config(stale=0.6)
    run = launched(tmp_path / "two", patient)
    slow = SessionWorker(tmp_path / "two", patient, pause=0.04)
    wait_until(lambda: any(" select" in line for line in slow.scored))
    slow.pause()
    quick = SessionWorker(tmp_path / "two", patient)
    assert quick.end() == 0
    done = run.study.user_attrs[RESULT]
    slow.send(signal.SIGCONT)
    assert slow.end() == 0
    assert slow.result == quick.result == json.loads(json.dumps(done))
    assert any("another one does" in line for line in slow.notes)
    assert run.study.user_attrs[RESULT] == done


def test_who_joins_after_the_end_is_told_the_result_and_a_resumed_search_goes_on(tmp_path: Path) -> None:
    run, first = alone(tmp_path / "one", config())
    late = SessionWorker(tmp_path / "one", config())
    assert late.end() == 0
    assert (late.result, late.scored) == (json.loads(json.dumps(first)), [])
    search(run.problem, run.study, run.storage.engine, Listener(), run.stop, TRIALS + 3, None)
    assert len(run.study.get_trials()) == TRIALS + 3
    assert current_round(run.study) == (2, TRIALS + 3)


def test_a_timeout_closes_the_round_for_all_and_trials_under_way_are_waited_for(tmp_path: Path) -> None:
    run = launched(tmp_path / "two", config(), trials=400)
    hasty = SessionWorker(tmp_path / "two", config(), timeout=0.8, pause=0.03)
    other = SessionWorker(tmp_path / "two", config(), pause=0.03)
    assert [hasty.end(), other.end()] == [0, 0]
    assert "the timeout of 0.8 s is over" in why_closed(run.study)
    states = [trial.state.name for trial in run.study.get_trials()]
    assert 0 < len(states) < 400
    assert set(states) == {"COMPLETE"}
    assert hasty.result == other.result


def test_attributes_of_the_study_are_written_once_by_whichever_worker(tmp_path: Path) -> None:
    subset = config(evaluate={"subset": 8}, trials=24)
    run = launched(tmp_path / "two", subset, trials=24)
    workers = [SessionWorker(tmp_path / "two", subset) for _ in range(3)]
    assert [worker.end() for worker in workers] == [0, 0, 0]
    notes = [line for worker in workers for line in worker.notes]
    assert sum(line.startswith("sampler random") for line in notes) == 1
    assert sum(line.startswith("subset:") for line in notes) == 1
    assert run.study.user_attrs[SAMPLER] == "random"
    assert run.study.user_attrs[SUBSET]["of"] == 24


def test_somebody_is_there_while_a_worker_lives(tmp_path: Path) -> None:
    run = launched(tmp_path / "one", config())
    assert not is_worked_on(run.storage.engine, "toy")
    worker = SessionWorker(tmp_path / "one", config(), pause=0.05)
    wait_until(lambda: bool(worker.scored))
    assert is_worked_on(run.storage.engine, "toy")
    worker.send(signal.SIGKILL)
    worker.end()
    assert not is_worked_on(run.storage.engine, "toy")


class TestPresence:
    """Of workers of other hosts only their counters are known."""

    @pytest.mark.parametrize("is_alive", [True, False])
    def test_a_worker_of_another_host_is_there_if_it_counts(self, is_alive: bool, tmp_path: Path) -> None:
        run = ToyRun(tmp_path)
        workers = Workers(run.storage.engine, "toy")
        workers.join(600)
        with run.storage.engine.begin() as connection:
            connection.execute(METADATA.tables["evomerge_workers"].update().values(host="elsewhere"))
        if is_alive:
            threading.Timer(0.1, workers.beat).start()
        assert is_worked_on(run.storage.engine, "toy", seconds=0.6) == is_alive
        workers.leave()


class TestErrands:
    """The worker that concludes posts them; others help."""

    @staticmethod
    def errands(folder: Path, check: Callable[[], None] = lambda: None) -> tuple[Errands, Workers, list[Errand]]:
        run = ToyRun(folder, config())
        run.run(4)
        workers = Workers(run.storage.engine, "toy")
        workers.join(0.05)
        recipes = [run.problem.space.recipe(trial.params) for trial in run.study.get_trials()]
        wanted = [Errand(recipe, number, "select", number % 2) for number, recipe in enumerate(recipes)]
        return Errands(run.storage.engine, "toy", workers, check, 0.4), workers, wanted

    def test_each_is_done_once_by_one_of_two(self, tmp_path: Path) -> None:
        (first, mine, wanted), (second, its, _) = (self.errands(tmp_path) for _ in range(2))
        did: dict[str, list[Errand]] = {"first": [], "second": []}
        ended = threading.Event()

        def helping() -> None:
            while not ended.is_set():
                second.help(lambda errand: (time.sleep(0.02), did["second"].append(errand))[1])

        helper = threading.Thread(target=helping)
        helper.start()
        first.share(wanted, lambda errand: (time.sleep(0.02), did["first"].append(errand))[1])
        ended.set()
        helper.join()
        done = [*did["first"], *did["second"]]
        assert sorted(errand.trial or 0 for errand in done) == [0, 1, 2, 3]
        assert all(errand in wanted for errand in done)
        assert did["second"]
        mine.leave()
        its.leave()

    def test_one_whose_worker_dies_is_done_by_another(self, tmp_path: Path) -> None:
        first, mine, wanted = self.errands(tmp_path)
        second, its, _ = self.errands(tmp_path)
        did: list[int | None] = []

        def vanish(errand: Errand) -> None:
            its._ended.set()
            raise ZeroDivisionError

        def do(errand: Errand) -> None:
            if not did:
                with pytest.raises(ZeroDivisionError):
                    second.help(vanish)
            did.append(errand.trial)

        first.share(wanted, do)
        assert sorted(number or 0 for number in did) == [0, 1, 2, 3]
        mine.leave()

    def test_who_waits_for_them_can_be_interrupted(self, tmp_path: Path) -> None:
        asked: list[int] = []

        def check() -> None:
            asked.append(1)
            if len(asked) > 2:
                raise InterruptedRunError("stop")

        errands, workers, wanted = self.errands(tmp_path, check)
        with pytest.raises(InterruptedRunError):
            errands.share(wanted, lambda errand: None)
        workers.leave()


class Told(Listener):
    def __init__(self) -> None:
        self.all: list[Any] = []

    def note(self, text: str) -> None:
        self.all.append(text)

    def stage(self, name: str, total: int, done: int) -> None:
        self.all.append((name, total, done))

    def step(self) -> None:
        self.all.append(1)


def test_what_workers_say_reaches_whoever_follows_once_and_in_order(tmp_path: Path) -> None:
    run = ToyRun(tmp_path)
    poster = Poster(run.storage.engine, "toy")
    poster.note("before anybody looked")
    told = Told()
    messages = Messages(run.storage.engine, "toy", told)
    Poster(run.storage.engine, "another study").note("not ours")
    poster.note("a")
    poster.stage("search", 10, 0)
    poster.step()
    poster.stage("select", 3, 1)
    poster.step()
    poster.step()
    messages.look()
    assert told.all == ["a", ("select", 3, 1)]
    poster.note("b")
    poster.close("")
    for _ in range(2):
        messages.look()
    assert told.all == ["a", ("select", 3, 1), "b", 1, 1]
