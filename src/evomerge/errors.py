"""The errors that evomerge raises on purpose. Every room may import this module."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EvomergeError(Exception):
    """Base of every error raised on purpose; its text is one line meant for the user."""


class InputError(EvomergeError, ValueError):
    """What the user gave is wrong: a key, a file, a model, a task. The command line exits with 2."""


class CandidateError(EvomergeError):
    """One candidate could not be built or scored. The search records a failed trial and goes on."""


class InterruptedRunError(EvomergeError):
    """The user asked to stop. Everything scored so far is kept; the command line exits with 130."""


def unknown_name(what: str, value: str, known: Iterable[str]) -> InputError:
    """An InputError that states the known names and the one nearest to `value`."""
    names = sorted(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"{what} must be one of {', '.join(names)}, but got {value!r}{hint}")
