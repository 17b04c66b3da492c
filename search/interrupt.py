"""A polite request to stop."""

from __future__ import annotations

import threading

from evomerge.errors import InterruptedRunError


class StopRequest:
    """Set once by a signal handler; the search looks at it between chunks of documents."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the search to stop at the next chunk's end."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the request."""
        self._event.wait(seconds)

    def check(self) -> None:
        """Raise InterruptedRunError if somebody asked to stop."""
        if self.is_set:
            raise InterruptedRunError("interrupted; everything scored so far is kept")
