"""Toy searches that have patience with their database."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.search.listener import Listener
from evomerge.search.patience import patient
from evomerge.search.study import TOLD
from tests.runs.conftest import finished
from tests.search.toy import ToyRun, toy_config

__all__ = ["finished"]

SIZES = {"search": 10, "select": 2, "report": 2}
TRIALS = 6


def config(**search: Any) -> Any:
    return toy_config(search={"sampler": "random", "trials": TRIALS, "seed": 3, "warm_start": ["experts"], **search})


class Notes(Listener):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def has(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)


def search(
    folder: Path,
    url: str | None = None,
    seconds: float = 60.0,
    before: Callable[[ToyRun], None] = lambda run: None,
    stale: float = 60.0,
) -> ToyRun:
    """Run a toy search to its end with so much patience."""
    run = ToyRun(folder, config(), url=url, sizes=SIZES, stale=stale)
    run.listener = Notes()
    before(run)
    with patient(run.storage.engine, seconds, tell=run.listener.note, check=run.stop.check):
        run.run(TRIALS)
    return run


def at_chunk(count: int, act: Callable[[], None]) -> Callable[[ToyRun], None]:
    """Act once before the chunk of documents of that number."""

    def before(run: ToyRun) -> None:
        run.evaluator.before_chunk = lambda done: act() if done == count else None

    return before


def check_whole(run: ToyRun, like: ToyRun) -> None:
    """Trials and scores are those of an undisturbed search."""
    assert run.history() == like.history()
    assert rows(run) == rows(like)
    check_sound(run)


def check_sound(run: ToyRun) -> None:
    """Every trial is there once and was told once, and every score is there once and is what scoring gives."""
    found = run.study.get_trials()
    assert [trial.number for trial in found] == list(range(TRIALS))
    assert sorted(trial.user_attrs[TOLD] for trial in found) == list(range(TRIALS))
    for trial in found:
        recipe = run.problem.space.recipe(trial.params)
        truth = {(s.task, s.document): s.value for s in run.evaluator.truth(recipe, "search").documents}
        scored = {(s.task, s.document): s.value for s in run.ledger.scores(recipe.digest, "search")}
        assert scored == truth


def rows(run: ToyRun) -> list[tuple[Any, ...]]:
    """The ledger's rows, in order."""
    with run.storage.engine.connect() as connection:
        return sorted(tuple(row) for row in connection.exec_driver_sql("SELECT * FROM evomerge_ledger").all())
