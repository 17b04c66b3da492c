"""What happens in a run, as lines of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.runs.files import append_line, cannot_write
from evomerge.search.listener import Listener, TrialOutcome
from evomerge.secrets import hide


class EventFile(Listener):
    """Appends one JSON object a line to `path`: {time, event, ...}.

    Processes may append at the same time. Where one was killed or the disk was full within a line, the next one begins
    a new line; `read_events` leaves out what is torn.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: Any) -> None:
        """Add an event. `time` is in seconds since 1970. Raises EvomergeError when the file cannot be written."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **_without_secrets(fields)})
        try:
            append_line(self._path, line)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def note(self, text: str) -> None:
        """An event "note"."""
        self.write("note", text=text)

    def stage(self, name: str, total: int, done: int) -> None:
        """An event "stage"."""
        self.write("stage", name=name, total=total, done=done)

    def trial(self, outcome: TrialOutcome) -> None:
        """An event "trial"; a failed one has a reason instead of an objective, an estimated one both."""
        told: dict[str, Any] = {} if outcome.objective is None else {"objective": outcome.objective}
        if outcome.reason:
            told["reason"] = outcome.reason
        if outcome.objective is not None:
            told |= {
                "estimated": outcome.estimated,
                "documents": outcome.documents,
                "feasible": outcome.feasible,
            }
        self.write("trial", number=outcome.number, origin=outcome.origin, **told, tasks=outcome.tasks)


def _without_secrets(tree: Any) -> Any:
    if isinstance(tree, str):
        return hide(tree)
    if isinstance(tree, dict):
        return {key: _without_secrets(value) for key, value in tree.items()}
    return [_without_secrets(value) for value in tree] if isinstance(tree, list | tuple) else tree


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events in a file, in the order in which they were written; [] when there is no file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [event for event in map(_event, lines) if event is not None]


def _event(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"time", "event"} <= found.keys() else None


class Listeners(Listener):
    """Passes everything on to several listeners."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners

    def note(self, text: str) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.note(text)

    def stage(self, name: str, total: int, done: int) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.stage(name, total, done)

    def step(self) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.step()

    def documents(self, scored: int) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.documents(scored)

    def trial(self, outcome: TrialOutcome) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.trial(outcome)

    def result(self, result: dict[str, Any]) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.result(result)

    def close(self, why: str) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.close(why)
