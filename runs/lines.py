"""What a search tells, as lines of JSON in place of a progress bar: for clusters and log collectors."""

from __future__ import annotations

import json
import time
from typing import Any, TextIO

from evomerge.runs.events import EventFile
from evomerge.secrets import hide


class JsonLines(EventFile):
    """Writes the events of events.jsonl, and how far the stage is, to a stream. A context manager, as a bar is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._total = self._done = self._scored = 0

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def write(self, event: str, **fields: Any) -> None:
        """Add an event. `time` is in seconds since 1970. Credentials in texts are left out."""
        told = {name: hide(value) if isinstance(value, str) else value for name, value in fields.items()}
        self._stream.write(json.dumps({"time": round(time.time(), 3), "event": event, **told}) + "\n")
        self._stream.flush()

    def stage(self, name: str, total: int, done: int) -> None:
        """An event "stage"."""
        self._stage, self._total, self._done = name, total, done
        super().stage(name, total, done)

    def step(self) -> None:
        """An event "progress": {stage, done, total, documents}, the last since this process began."""
        self._done += 1
        self.write("progress", stage=self._stage, done=self._done, total=self._total, documents=self._scored)

    def documents(self, scored: int) -> None:
        """Count; the next step says how many."""
        self._scored += scored
