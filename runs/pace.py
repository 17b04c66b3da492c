"""How fast a search comes forward, and times for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from optuna.trial import FrozenTrial

from evomerge.search.study import SCORED

LATEST = 30  # finished trials that the pace is taken from
PAUSE = 20  # times the median between two ends, beyond which the search did not run in between


class Pace(NamedTuple):
    """Of the latest trials of all workers together.

    Attributes:
        candidates: that end in a minute.
        documents: scored in a second.
    """

    candidates: float
    documents: float


def pace_of(trials: Sequence[FrozenTrial]) -> Pace | None:
    """The pace over the latest trials; None: fewer than two have ended, or all in one moment.

    Times in which the search did not run, between a stop and a resumption, do not count.
    """
    ended = [trial for trial in trials if trial.state.is_finished() and trial.datetime_complete is not None]
    latest = sorted(ended, key=_end)[-LATEST:]
    gaps = [_end(after) - _end(before) for before, after in pairwise(latest)]
    if not gaps:
        return None
    longest = PAUSE * max(median(gaps), 0.1)
    worked = [(gap, trial) for gap, trial in zip(gaps, latest[1:], strict=True) if gap <= longest]
    seconds = sum(gap for gap, _ in worked)
    if seconds <= 0:
        return None
    documents = sum(int(trial.user_attrs.get(SCORED, [0])[0]) for _, trial in worked)
    return Pace(60 * len(worked) / seconds, documents / seconds)


def duration(seconds: float) -> str:
    """A time for people: 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _end(trial: FrozenTrial) -> float:
    assert trial.datetime_complete is not None
    return trial.datetime_complete.timestamp()
