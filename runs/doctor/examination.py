"""All checks of one configuration, and what they found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import InputError
from evomerge.runs.doctor.check import Check, in_order
from evomerge.runs.doctor.findings import LEVELS, Finding, LeftOut, Level, error, skipped
from evomerge.runs.doctor.subject import Subject
from evomerge.search.config import SearchConfig


class Told(NamedTuple):
    """A finding with the name of its check."""

    check: str
    level: Level
    text: str
    advice: str


@dataclass(frozen=True)
class Examination:
    """What the checks of a configuration found.

    Attributes:
        name: of the search.
        told: errors first, then warnings, then the rest.
        parts: `estimates`, `conflict`, `leaks` and `power`, where there was enough to see.
    """

    name: str
    told: tuple[Told, ...]
    parts: dict[str, Any]

    @property
    def errors(self) -> tuple[Told, ...]:
        """What a search would fail at."""
        return tuple(each for each in self.told if each.level == "error")

    def count(self, level: Level) -> int:
        """How many findings are of a level."""
        return Counter(each.level for each in self.told)[level]

    def as_data(self) -> dict[str, Any]:
        """A JSON object.

        Returns:
            {name, ok, checks: [{check, level: error | warning | ok | skipped, text, advice}], estimates, conflict,
            leaks, power}; of the last four, null (or no lines of leaks) where they could not be seen.
        """
        return {
            "name": self.name,
            "ok": not self.errors,
            "checks": [each._asdict() for each in self.told],
            "estimates": self.parts.get("estimates"),
            "conflict": self.parts.get("conflict"),
            "leaks": self.parts.get("leaks", []),
            "power": self.parts.get("power"),
        }


def examine(
    config: SearchConfig, *, offline: bool = False, weights: bool = True, folder: Path | None = None
) -> Examination:
    """Run every check. Nothing is written, downloaded or trained; of weights a sample is read.

    Args:
        config: of the search.
        offline: look at nothing that is not on this machine.
        weights: whether weights may be read; without them nothing is known of how the experts get along.
        folder: where the run would be; by default outputs/NAME.
    """
    subject = Subject(config, offline=offline, weights=weights, folder=folder)
    told: list[Told] = []
    errors: set[str] = set()
    for check in in_order():
        for finding in _looked(check, subject, errors):
            if finding.level == "error" and finding.text in errors:
                continue
            told.append(Told(check.name, *finding))
            errors |= {finding.text} if finding.level == "error" else set()
    told.sort(key=lambda each: LEVELS.index(each.level))
    return Examination(config.name, tuple(told), subject.parts)


def _looked(check: Check, subject: Subject, known: set[str]) -> list[Finding]:
    """What a check finds; an error that is `known` already only keeps it from looking."""
    found: list[Finding] = []
    try:
        for finding in check.look(subject):
            found.append(finding)  # one by one: what was found before an error counts
    except InputError as trouble:
        text = str(trouble)
        found.append(skipped("it takes what has an error above") if text in known else error(text))
    except LeftOut as missing:
        found.append(skipped(str(missing)))
    return found
