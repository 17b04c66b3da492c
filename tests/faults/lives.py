"""Processes that work on a run of the embedded example and are killed.

All of them are forked from one that has loaded the example and nothing else has happened in: one in which other tests
have run may hold locks of threads that a fork leaves behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Engine, event

from evomerge.errors import EvomergeError
from evomerge.runs import joining, launch
from evomerge.runs.run import Run, open_run
from evomerge.search import queue
from evomerge.search.config import SearchConfig, load_config
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, build_problem
from evomerge.search.rounds import current_round
from tests.runs.conftest import CONFIG

_SERVER = multiprocessing.get_context("forkserver")  # a new interpreter would take seconds to import everything
PHASES = ("launch", "search", "select", "report", "end")
SETTINGS = [
    *("evaluate.limit=40", "search.trials=13", "search.finalists=2", "search.sampler=cmaes"),
    *("runtime.device=cpu", "runtime.stale=2"),
]


class Warm:
    """The example's search, and in the processes that are forked its models, too.

    Attributes:
        config: of its search.
        seconds: that an undisturbed search took.
    """

    def __init__(self) -> None:
        self.config: SearchConfig = load_config(CONFIG, SETTINGS)
        self.seconds = 0.0

    @cached_property
    def problem(self) -> Problem:
        """With the models, loaded."""
        return build_problem(self.config)

    def search(self, folder: Path) -> Run:
        """An undisturbed search, in a process of its own."""
        assert Life(folder, nothing).end() == 0  # the one that processes are forked from has loaded the example by now
        begun = time.monotonic()
        life = Life(folder, lead)
        assert life.end() == 0, life.said
        self.seconds = time.monotonic() - begun
        return open_run(folder)


@cache
def warm_here() -> Warm:
    """This process's own, with its models."""
    warm = Warm()
    assert warm.problem.merger.num_layers
    return warm


class Death(NamedTuple):
    """When a process is to be killed.

    Attributes:
        by: "time", "commit" (before it takes effect) or "file" (before one is opened for writing, renamed, removed).
        after: seconds, or how many commits or files come before.
    """

    by: str
    after: float

    @classmethod
    def drawn(cls, generator: np.random.Generator, seconds: float, besides: str = "") -> Death:
        """At random, by time for at most so long, and not by `besides`."""
        by = besides
        while by == besides:
            by = str(generator.choice(["time", "commit", "file"], p=[0.5, 0.3, 0.2]))
        most = {"time": seconds, "commit": 60.0, "file": 24.0}[by]
        after = float(generator.uniform(0, most))
        return cls(by, after if by == "time" else int(after))


class Life:
    """One process of a run.

    Args:
        folder: of the run.
        work: `lead`, `join` or another function that can be pickled.
        death: of the process; None: it is not killed.
    """

    def __init__(self, folder: Path, work: Callable[[Warm, Path, Listener], None], death: Death | None = None) -> None:
        _SERVER.set_forkserver_preload(["tests.faults.preload"])
        self._phase = _SERVER.Value("i", 0, lock=False)
        self._death = death
        self._log = folder.with_name(f"{folder.name}.log")
        self._process = _SERVER.Process(target=live, args=(self._phase, death, self._log, folder, work), daemon=True)
        self._process.start()
        self._begun = time.monotonic()

    @property
    def phase(self) -> str:
        """Where the process was when it ended."""
        return PHASES[self._phase.value]

    @property
    def said(self) -> str:
        """What went wrong in processes of the run."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def end(self, seconds: float = 300.0) -> int | None:
        """Wait until it has ended, or kill it when its time has come; its exit code, -9 when it was killed."""
        if self._death is not None and self._death.by == "time":
            self._process.join(self._death.after)
            self.kill()
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            assert self._process.pid is not None
            os.kill(self._process.pid, number)


def live(
    phase: Any, death: Death | None, log: Path, folder: Path, work: Callable[[Warm, Path, Listener], None]
) -> None:
    """What the process of a `Life` does."""
    warm = warm_here()
    if death is not None and death.by != "time":
        _arm(death, folder)
    for module in (launch, joining):
        module.build_problem = lambda *_, **__: warm.problem  # type: ignore[attr-defined]
    queue.MAX_DEATHS = 1000  # so often, no trial is to blame
    warm.problem.merger.load = lambda: None  # type: ignore[method-assign]  # it is
    try:
        work(warm, folder, _Phases(phase))
    except BaseException as error:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}: {type(error).__name__}: {error}\n")
        raise


def nothing(warm: Warm, folder: Path, listener: Listener) -> None:
    """End at once."""


def lead(warm: Warm, folder: Path, listener: Listener) -> None:
    """Launch the run, or go on with it."""
    if (folder / "config.yaml").exists():
        launch.go_on(open_run(folder), listener)
    else:
        launch.start(warm.config, folder, listener)


def join(warm: Warm, folder: Path, listener: Listener) -> None:
    """Join the run as soon as it has been launched."""
    while not _is_launched(folder):
        time.sleep(0.05)
    joining.join(folder, None, None, listener)


def _is_launched(folder: Path) -> bool:
    try:
        return current_round(open_run(folder).study) is not None
    except EvomergeError:
        return False


class _Phases(Listener):
    """Says in memory that outlives the process where it is."""

    def __init__(self, phase: Any) -> None:
        self._phase = phase
        write_best = Run.write_best

        def write(run: Run) -> None:
            phase.value = PHASES.index("end")
            write_best(run)

        Run.write_best = write  # type: ignore[assignment]

    def stage(self, name: str, total: int, done: int) -> None:
        if name in PHASES:
            self._phase.value = PHASES.index(name)


def _arm(death: Death, folder: Path) -> None:
    """Kill this process when it has come so far."""
    left = [int(death.after)]

    def count(*_: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        is_change = name in ("os.rename", "os.remove", "os.mkdir") or (name == "open" and _is_writing(arguments))
        if is_change and str(folder) in str(arguments[0]):
            count()

    if death.by == "commit":
        event.listen(Engine, "commit", count)
    else:
        sys.addaudithook(audit)


def _is_writing(arguments: tuple[Any, ...]) -> bool:
    return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


class Record(NamedTuple):
    """What a run's database holds for good.

    Attributes:
        rows: of the ledger: (recipe, task, document, metric, split, trial, value).
        trials: (number, state, parameters, values, place in the order of telling), of those that are finished.
    """

    rows: frozenset[tuple[Any, ...]] = frozenset()
    trials: frozenset[tuple[Any, ...]] = frozenset()


def record_of(folder: Path) -> Record:
    """What is recorded now. Raises AssertionError where a document or a trial is there twice."""
    database = folder / "study.db"
    if not database.exists() or not database.stat().st_size:
        return Record()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "evomerge_ledger" not in tables:
            return Record()
        rows = connection.execute("SELECT recipe, task, document, metric, split, trial, value FROM evomerge_ledger")
        ledger = list(rows)
        trials = list(_trials(connection))
    assert len({row[:4] for row in ledger}) == len(ledger)
    assert len({trial[0] for trial in trials}) == len(trials)
    assert sorted(trial[4] for trial in trials) == list(range(len(trials)))  # each was told once
    return Record(frozenset(ledger), frozenset(trials))


def _trials(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    finished = "SELECT trial_id, number, state FROM trials WHERE state IN ('COMPLETE', 'FAIL')"
    for key, number, state in connection.execute(finished).fetchall():
        params = connection.execute("SELECT param_name, param_value FROM trial_params WHERE trial_id = ?", (key,))
        values = connection.execute("SELECT objective, value FROM trial_values WHERE trial_id = ?", (key,))
        told = "SELECT value_json FROM trial_user_attributes WHERE trial_id = ? AND key = 'told'"
        place = int(connection.execute(told, (key,)).fetchone()[0])
        yield number, state, tuple(sorted(params)), tuple(sorted(values)), place
