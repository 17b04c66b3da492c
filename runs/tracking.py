"""Experiment trackers: what they are told of a search, and how one is added."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from evomerge.errors import InputError
from evomerge.registry import Registry
from evomerge.search.config import SearchConfig
from evomerge.search.listener import Listener

if TYPE_CHECKING:
    from evomerge.runs.run import Run

TRACKING = "evomerge:tracking"  # of a study: the id under which trackers know it
CLOSE_SECONDS = 60.0


@dataclass(frozen=True)
class Tracked:
    """The search that a tracker is opened for.

    Attributes:
        id: 32 hexadecimal digits, the same whenever the study is resumed and wherever it is joined.
        name: the study's.
        folder: the run's. A tracker that keeps files keeps them below it.
        config: as the study keeps it: plain data, without the database's password.
    """

    id: str
    name: str
    folder: Path
    config: Mapping[str, Any]


class Tracker(Protocol):
    """One run of an experiment tracker. It is called from one thread, and whatever it raises closes it for good.

    Names are words separated by `/`; task titles and dimensions in them may hold any character. Numbers are finite.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of trial `step`. Trials come once each, in no certain order."""

    def conclude(self, values: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """The answer of the search. Comes again where a search goes on to more trials and ends once more."""

    def close(self, why: str) -> None:
        """Deliver what is left. `why` is "" at the end of the search, else why it stops early."""


class TrackerKind(NamedTuple):
    """How a tracker is opened.

    Attributes:
        open: a new tracker run for a search, or the one that it has already.
        package: the module that has to be there.
        install: what to install where it is not.
    """

    open: Callable[[Tracked], Tracker]
    package: str
    install: str


TRACKERS: Registry[TrackerKind] = Registry("tracker", "evomerge.runs.trackers", "evomerge.trackers")


def tracker(name: str, *, package: str, install: str) -> Callable[[Callable[[Tracked], Tracker]], TrackerKind]:
    """Register a function that opens the tracker `name`.

    Args:
        name: as `runtime.trackers` calls it.
        package: the module that it imports when it is called, and not before.
        install: what pip installs to have it.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Callable[[Tracked], Tracker]) -> TrackerKind:
        kind = TrackerKind(function, package, install)
        TRACKERS.add(name, kind)
        return kind

    return register


def check_trackers(config: SearchConfig) -> None:
    """Raise InputError when `runtime.trackers` names one that is unknown, named twice or not installed."""
    names = config.runtime.trackers
    for name in names:
        kind = TRACKERS.get(name)
        if names.count(name) > 1:
            raise InputError(f"runtime.trackers must name each tracker once, but got {name!r} twice")
        if importlib.util.find_spec(kind.package) is None:
            raise InputError(
                f"the tracker {name!r} must have the package {kind.package!r}, which is not installed; "
                f"pip install '{kind.install}'"
            )


def open_trackers(
    run: Run, tell: Callable[[str], None] | None = None, patience: float = CLOSE_SECONDS
) -> list[Listener]:
    """What sends the progress of a run to the trackers that its configuration names.

    Nothing that a tracker does raises or blocks: each one has a thread, and is dropped with one note when it fails.
    Trials that ended earlier and have not been sent yet are sent, too. One process of a run opens its trackers.

    Args:
        run: whose configuration `check_trackers` has passed.
        tell: told of a tracker that fails, in one line; by default the run's events are.
        patience: seconds that closing a tracker waits for it to take what is left.

    Returns:
        A listener for each, which has to be closed at the end.
    """
    from evomerge.runs.sending import Sending

    names = run.config.runtime.trackers
    if not names:
        return []
    tracked = Tracked(_identity(run), run.study.study_name, run.folder, _told_config(run))
    tell = tell or run.events.note
    return [Sending(name, TRACKERS.get(name).open, tracked, run, tell, patience) for name in names]


def _identity(run: Run) -> str:
    stored = run.study.user_attrs.get(TRACKING)
    if stored is None:
        stored = uuid.uuid4().hex
        run.study.set_user_attr(TRACKING, stored)
    return str(stored)


def _told_config(run: Run) -> dict[str, Any]:
    from evomerge.search.study import CONFIG

    return dict(run.study.user_attrs[CONFIG])
