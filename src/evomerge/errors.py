"""The errors that evomerge raises on purpose. Every room may import this module."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 2_000
"""The most characters of an error's text."""

LONGEST_NAME = 100
"""The most characters of a name that its neighbours are looked for by."""


class EvomergeError(Exception):
    """Base of every error raised on purpose; its text is one line meant for the user.

    What it quotes may come from anybody's files: characters that cannot be printed are shown by their numbers, and what
    is longer than `LONGEST` loses its middle.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(_one_line(str(text)))


class InputError(EvomergeError, ValueError):
    """What the user gave is wrong: a key, a file, a model, a task. The command line exits with 2."""


class CandidateError(EvomergeError):
    """One candidate could not be built or scored. The search records a failed trial and goes on."""


class InterruptedRunError(EvomergeError):
    """The user asked to stop. Everything scored so far is kept; the command line exits with 130."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        text = " ".join(text.split()) if "\n" in text else text
        text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 500]} ... {text[-400:]} ({len(text)} characters)"
    return text


def unknown_name(what: str, value: str, known: Iterable[str]) -> InputError:
    """An InputError that states the known names and the one nearest to `value`."""
    names = sorted(known)
    near = difflib.get_close_matches(value[:LONGEST_NAME], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"{what} must be one of {', '.join(names)}, but got {value!r}{hint}")
