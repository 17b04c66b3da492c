"""Which deaths of workers count against a trial."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from evomerge.search.claims import MAX_DEATHS
from evomerge.search.proposals import Proposer
from evomerge.search.queue import TrialQueue
from evomerge.search.workers import Workers
from tests.search.processes import SIZES, ToyWorker, wait_until
from tests.search.toy import ToyRun, toy_config

CONFIG = toy_config(search={"sampler": "random", "trials": 2, "seed": 3, "warm_start": []})


def test_deaths_between_which_documents_were_scored_do_not_add_up(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    undisturbed = ToyRun(whole, CONFIG, sizes=SIZES)
    undisturbed.run(2)

    def die_after_one_chunk(run: ToyRun) -> None:
        run.evaluator.before_chunk = lambda done: os.kill(os.getpid(), signal.SIGKILL) if done else None

    ToyRun(killed, CONFIG, sizes=SIZES)
    deaths = 0
    while ToyWorker(killed, CONFIG, 2, before=die_after_one_chunk).end() == -signal.SIGKILL:
        deaths += 1
    last = ToyRun(killed, CONFIG, sizes=SIZES)
    assert last.history() == undisturbed.history()
    assert deaths > MAX_DEATHS * 2


def test_a_trial_that_a_crash_of_the_server_took_back_goes_on(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, CONFIG, sizes=SIZES)
    workers = Workers(run.storage.engine, "toy")
    proposer = Proposer(run.problem, run.study, "random", run.ledger, 2)
    queue = TrialQueue(run.study, run.problem.space, run.ledger, proposer, workers, run.listener, lambda: None)
    taken = queue.take(2, lambda done: "")
    assert taken is not None
    again = queue.take(2, lambda done: "")  # as if it had not been finished, though this worker had seen it finished
    assert again is not None
    assert again.number == taken.number
    queue.finish(again, [0.5], {}, {})
    workers.leave()


def test_how_long_a_counter_has_stood_still_is_known_before_anybody_asks(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, CONFIG, sizes=SIZES)
    silent, watcher = (Workers(run.storage.engine, "toy") for _ in range(2))
    silent.join(60.0)
    watcher.join(0.05)
    wait_until(lambda: silent.me.worker in watcher._seen)
    time.sleep(0.3)
    assert watcher.is_dead(silent.me.worker, 0.3)
    silent.beat()
    assert not watcher.is_dead(silent.me.worker, 0.3)
    silent.leave()
    watcher.leave()
