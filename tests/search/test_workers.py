"""Several workers on one study, and what happens when they are killed, stopped, or come back."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from evomerge.errors import InterruptedRunError
from evomerge.search import proposals
from evomerge.search.claims import Claims
from evomerge.search.lease import Lease, LostLeaseError
from evomerge.search.queue import TrialQueue
from evomerge.search.sampling import SAMPLERS, finished_trials
from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.study import NOTES, REASON, TOLD
from evomerge.search.workers import Worker, Workers
from tests.search.processes import SIZES, ToyWorker, die_at_commit, wait_until
from tests.search.toy import ToyRun, toy_config

TRIALS = 14


def config(sampler: str, **search: Any) -> Any:
    return toy_config(search={"sampler": sampler, "trials": TRIALS, "seed": 3, "warm_start": ["experts"], **search})


def check_whole(run: ToyRun, trials: int) -> None:
    """Every trial is finished, has its own point and its own place in the order of telling."""
    found = run.study.get_trials()
    assert [trial.state.name for trial in found] == ["COMPLETE"] * trials
    assert [trial.number for trial in found] == list(range(trials))
    assert sorted(trial.user_attrs[TOLD] for trial in found) == list(range(trials))
    assert len({tuple(trial.params.items()) for trial in found}) == trials
    assert [trial.user_attrs[TOLD] for trial in finished_trials(run.study)] == list(range(trials))


def counts(workers: list[ToyWorker]) -> Counter[str]:
    return Counter(line for worker in workers for line in worker.scored)


@pytest.mark.parametrize("sampler", ["cmaes", "qmc"])
def test_three_workers_of_which_one_is_killed_finish_every_trial_once(sampler: str, tmp_path: Path) -> None:
    ToyRun(tmp_path, config(sampler), sizes=SIZES)
    workers = [ToyWorker(tmp_path, config(sampler), TRIALS, pause=0.02) for _ in range(3)]
    wait_until(lambda: len(workers[0].scored) > 45)
    workers[0].send(signal.SIGKILL)
    assert [worker.end() for worker in workers] == [-signal.SIGKILL, 0, 0]
    check_whole(ToyRun(tmp_path, config(sampler), sizes=SIZES), TRIALS)
    assert all(worker.scored for worker in workers)
    twice = sum(count - 1 for count in counts(workers).values())
    assert twice <= 20  # the documents of the one chunk that the dead worker had begun
    assert sum("its worker is gone" in line for worker in workers for line in worker.notes) <= 1


def test_a_worker_that_was_stopped_for_long_leaves_its_trial_to_whoever_took_it_over(tmp_path: Path) -> None:
    ToyRun(tmp_path, config("cmaes"), sizes=SIZES)
    slow = ToyWorker(tmp_path, config("cmaes"), TRIALS, pause=0.05, stale=0.5)
    wait_until(lambda: len(slow.scored) > 25)
    slow.pause()
    quick = ToyWorker(tmp_path, config("cmaes"), TRIALS, stale=0.5)
    wait_until(lambda: any("its worker is gone" in line for line in quick.notes))
    assert quick.end() == 0
    slow.send(signal.SIGCONT)
    assert slow.end() == 0
    check_whole(ToyRun(tmp_path, config("cmaes"), sizes=SIZES), TRIALS)
    assert any("is another worker's by now" in line for line in slow.notes)


def test_threads_of_one_process_share_a_study(tmp_path: Path) -> None:
    ToyRun(tmp_path, config("nsga2"), sizes=SIZES)
    runs = [ToyRun(tmp_path, config("nsga2"), sizes=SIZES) for _ in range(2)]
    threads = [threading.Thread(target=run.run, args=(TRIALS,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_whole(ToyRun(tmp_path, config("nsga2"), sizes=SIZES), TRIALS)
    scored = [pair for run in runs for pair in run.evaluator.scored]
    assert len(scored) == len(set(scored))


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_after_kills_at_random_places_the_proposals_are_those_of_an_uninterrupted_run(
    name: str, tmp_path: Path
) -> None:
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    whole = ToyRun(tmp_path / "whole", config(name), sizes=SIZES)
    whole.run(TRIALS)
    generator = np.random.default_rng(sum(name.encode()))
    ToyRun(tmp_path / "killed", config(name), sizes=SIZES)
    for commit in generator.integers(0, 60, size=2):
        worker = ToyWorker(tmp_path / "killed", config(name), TRIALS, before=die_at_commit(int(commit)))
        assert worker.end() == -signal.SIGKILL
    last = ToyRun(tmp_path / "killed", config(name), sizes=SIZES)
    last.run(TRIALS)
    assert last.history() == whole.history()
    check_whole(last, TRIALS)


@pytest.mark.parametrize("commit", range(0, 9, 2))
def test_a_kill_before_any_transaction_of_a_trial_changes_nothing(commit: int, tmp_path: Path) -> None:
    small = config("random", warm_start=[])
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    whole = ToyRun(tmp_path / "whole", small, sizes=SIZES)
    whole.run(3)
    ToyRun(tmp_path / "killed", small, sizes=SIZES).run(1)
    worker = ToyWorker(tmp_path / "killed", small, 3, before=die_at_commit(6 + commit))
    assert worker.end() == -signal.SIGKILL
    last = ToyRun(tmp_path / "killed", small, sizes=SIZES)
    last.run(3)
    assert last.history() == whole.history()


def test_a_trial_that_ends_while_another_worker_looks_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ToyRun(tmp_path, config("random"), sizes=SIZES)
    run.run(4)
    trials = run.study.get_trials()
    trials[3].state = TrialState.RUNNING
    monkeypatch.setattr(run.study, "get_trials", lambda **options: trials)
    workers = Workers(run.storage.engine, "toy")
    proposer: Any = None
    waiting = TrialQueue(run.study, run.problem.space, run.ledger, proposer, workers, run.listener, lambda: None)
    assert waiting.take(4, lambda done: "") is None
    assert Claims(run.storage.engine, "toy", workers).of(3) is None


def test_an_interrupted_worker_leaves_its_trial_in_good_order(tmp_path: Path) -> None:
    first = ToyRun(tmp_path, config("random"), sizes=SIZES)

    def ask(done: int) -> None:
        if done == 6:
            first.stop.set()

    first.evaluator.before_chunk = ask
    with pytest.raises(InterruptedRunError):
        first.run(TRIALS)
    workers = Workers(first.storage.engine, "toy")
    claims = Claims(first.storage.engine, "toy", workers)
    number = first.study.get_trials()[-1].number
    claim = claims.of(number)
    assert claim is not None
    assert claim.worker is None
    taken = claims.take_over(number)
    assert taken is not None
    assert (taken.worker, taken.deaths) == (workers.me.worker, 0)
    workers.leave()


def test_a_trial_over_which_workers_die_again_and_again_is_given_up(tmp_path: Path) -> None:
    ToyRun(tmp_path, config("random"), sizes=SIZES)

    def die(run: ToyRun) -> None:
        run.evaluator.before_chunk = lambda done: os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        assert ToyWorker(tmp_path, config("random"), TRIALS, before=die).end() == -signal.SIGKILL
    last = ToyRun(tmp_path, config("random"), sizes=SIZES)
    last.run(3)
    first, *others = last.study.get_trials()
    assert first.state.name == "FAIL"
    assert first.user_attrs[REASON] == "given up: 3 workers died or vanished over it"
    assert [trial.state.name for trial in others if trial.number < 3] == ["COMPLETE"] * 2


def test_a_point_that_another_trial_has_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ToyRun(tmp_path, config("random", warm_start=[]), sizes=SIZES)
    make = proposals.make_sampler
    draws: list[int] = []

    def forgetful(name: str, context: Any) -> Any:
        draws.append(context.draw)
        return make(name, replace(context, number=0, draw=context.draw % proposals.DRAWS))

    monkeypatch.setattr(proposals, "make_sampler", forgetful)
    run.run(8)
    trials = run.study.get_trials()
    assert len({tuple(trial.params.items()) for trial in trials}) == 8
    assert draws[:6] == [0, 0, 1, 0, 1, 2]
    assert "random proposed points of other trials 4 times" in trials[7].user_attrs[NOTES][0]


class TestLease:
    @staticmethod
    def lease(folder: Path, **options: Any) -> tuple[Lease, Workers]:
        engine = open_storage(sqlite_url(folder / "study.db")).engine
        workers = Workers(engine, "toy")
        workers.join(0.05)
        return Lease(engine, "toy", "proposing", workers, **options), workers

    def test_one_worker_holds_it_at_a_time(self, tmp_path: Path) -> None:
        self.lease(tmp_path)[1].leave()
        inside: list[int] = []
        most: list[int] = []

        def work() -> None:
            lease, workers = self.lease(tmp_path)
            for _ in range(10):
                with lease.held():
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            workers.leave()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert max(most) == 1
        assert len(most) == 30

    def test_a_holder_without_a_sign_of_life_is_replaced_and_can_do_nothing_any_more(self, tmp_path: Path) -> None:
        silent, its_workers = self.lease(tmp_path)
        its_workers._ended.set()
        other, workers = self.lease(tmp_path, stale=0.3)
        with silent.held():
            with other.held(), other._engine.begin() as connection:
                other.guard(connection)
            with pytest.raises(LostLeaseError), silent._engine.begin() as connection:
                silent.guard(connection)
        with other.held():
            pass
        workers.leave()

    def test_a_living_holder_is_waited_for_and_the_wait_can_be_ended(self, tmp_path: Path) -> None:
        holder, its_workers = self.lease(tmp_path)
        looks: list[int] = []

        def give_up() -> None:
            looks.append(1)
            if len(looks) > 8:
                raise InterruptedRunError("stop")

        other, workers = self.lease(tmp_path, stale=0.3, check=give_up)
        with holder.held(), pytest.raises(InterruptedRunError), other.held():
            raise AssertionError("two hold the lease")
        its_workers.leave()
        workers.leave()


class TestWorkerIdentity:
    def test_a_process_is_gone_when_it_has_ended_though_nobody_has_reaped_it(self) -> None:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.read(read, 1)
            os._exit(0)
        me = Worker.here()
        other = replace(me, pid=child, started=_start_of(child))
        assert not other.is_gone(me.host, me.boot)
        os.write(write, b"x")
        wait_until(lambda: other.is_gone(me.host, me.boot))
        os.waitpid(child, 0)
        assert other.is_gone(me.host, me.boot)

    def test_what_cannot_be_known_is_not_assumed(self) -> None:
        me = Worker.here()
        nobody = replace(me, pid=2**22 - 1)
        assert nobody.is_gone(me.host, me.boot)
        assert not nobody.is_gone("elsewhere", me.boot)
        assert replace(me, started="1").is_gone(me.host, me.boot)  # the number belongs to a later process
        assert me.is_gone(me.host, "another run of the kernel")


def _start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
