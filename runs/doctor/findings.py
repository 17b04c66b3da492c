"""What a check finds: lines with a level. No torch here."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["error", "warning", "ok", "skipped"]
LEVELS: tuple[Level, ...] = ("error", "warning", "ok", "skipped")
"""In the order in which they are told."""


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        level: "error" where a search would fail, "warning" where it would mislead or waste, "ok" where all is well,
            "skipped" where nothing could be seen.
        text: what was found, in one line.
        advice: what to do about it; "" where nothing need be done.
    """

    level: Level
    text: str
    advice: str = ""


def ok(text: str, advice: str = "") -> Finding:
    """All is well."""
    return Finding("ok", text, advice)


def warning(text: str, advice: str = "") -> Finding:
    """A search would run, and mislead or waste."""
    return Finding("warning", text, advice)


def error(text: str, advice: str = "") -> Finding:
    """A search would fail."""
    return Finding("error", text, advice)


def skipped(text: str, advice: str = "") -> Finding:
    """Something could not be looked at."""
    return Finding("skipped", text, advice)


class LeftOut(Exception):  # noqa: N818 - no error: nothing is wrong, only out of sight
    """Something cannot be looked at here; the text says what is missing. The check that meets it is skipped."""
