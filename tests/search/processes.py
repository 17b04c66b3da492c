"""Workers on a toy problem in processes of their own, which may be killed or stopped at any place."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event

from evomerge.search.listener import Listener
from tests.search.toy import ToyRun

_FORK = multiprocessing.get_context("fork")  # a new interpreter would take seconds to import everything
SIZES = {"search": 10, "select": 2, "report": 2}


class Lines:
    """A file that processes append whole lines to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []


class _Noting(Listener):
    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def note(self, text: str) -> None:
        self._lines.add(text)


class ToyWorker:
    """A process that works on a toy's study.

    Args:
        folder: of the database and of the files below.
        config: of the search.
        trials: to reach.
        pause: seconds that a chunk takes.
        before: is called with the run before it begins, in the process.
        do: what it does; by default the trials.
        options: of ToyRun.

    Attributes:
        process: ends with 0 when all went well.
    """

    def __init__(
        self,
        folder: Path,
        config: Any,
        trials: int,
        pause: float = 0.0,
        before: Callable[[ToyRun], None] = lambda run: None,
        do: Callable[[ToyRun], object] | None = None,
        **options: Any,
    ) -> None:
        self._folder = folder
        self._make: Callable[[], ToyRun] = lambda: ToyRun(folder, config, **{"sizes": SIZES, **options})
        self._seconds = pause
        self._before = before
        self._do: Callable[[ToyRun], object] = do or (lambda run: run.run(trials))
        self.process = _FORK.Process(target=self._work, daemon=True)
        self.process.start()
        atexit.register(self.process.kill)  # a stopped one would be waited for without end

    @property
    def notes(self) -> list[str]:
        return Lines(self._folder / f"notes-{self.process.pid}").read()

    @property
    def scored(self) -> list[str]:
        """A line for each chunk that it began: the recipe, and how many chunks came before."""
        return Lines(self._folder / f"scored-{self.process.pid}").read()

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def pause(self) -> None:
        """Stop it outside of any transaction: one that is stopped within holds SQLite's only lock for as long."""
        database = self._folder / "study.db"
        while True:
            self.send(signal.SIGSTOP)
            try:
                with contextlib.closing(sqlite3.connect(database, timeout=0.3, isolation_level=None)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
            except sqlite3.OperationalError:
                self.send(signal.SIGCONT)
                time.sleep(0.01)
            else:
                return

    def end(self, seconds: float = 60.0) -> int | None:
        self.process.join(seconds)
        return self.process.exitcode

    def _work(self) -> None:
        run = self._make()
        run.listener = _Noting(Lines(self._folder / f"notes-{os.getpid()}"))
        chunks = Lines(self._folder / f"scored-{os.getpid()}")
        scored = run.evaluator.score

        def score(model: Any, documents: Any, *rest: Any, **named: Any) -> Any:
            documents = list(documents)
            time.sleep(self._seconds)
            for document in documents:
                chunks.add(f"{model.digest} {document.task} {document.key}")
            return scored(model, documents, *rest, **named)

        run.evaluator.score = score  # type: ignore[method-assign]
        self._before(run)
        self._do(run)


def die_at_commit(count: int) -> Callable[[ToyRun], None]:
    """Kill the process itself just before its transaction number `count`, from 0, is committed."""

    def before(run: ToyRun) -> None:
        left = [count]

        def on_commit(connection: Any) -> None:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        event.listen(run.storage.engine, "commit", on_commit)

    return before


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Look again and again. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.01)
