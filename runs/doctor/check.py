"""What a check is, and the registry of them: a file in `checks` with a function registered here is one more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from evomerge.registry import Registry
from evomerge.runs.doctor.findings import Finding
from evomerge.runs.doctor.subject import Subject

Look = Callable[[Subject], Iterable[Finding]]


class Check(NamedTuple):
    """A check.

    Attributes:
        name: as the checklist has it.
        order: where it runs among the others. What several would find wrong is told by the first.
        look: yields what it finds. An InputError that it raises becomes an error, a LeftOut a line on what was skipped.
    """

    name: str
    order: int
    look: Look


CHECKS: Registry[Check] = Registry("check", "evomerge.runs.doctor.checks", "evomerge.checks")


def check(name: str, order: int = 100) -> Callable[[Look], Look]:
    """Register a function of a `Subject` that yields findings as the check `name`."""

    def register(look: Look) -> Look:
        CHECKS.add(name, Check(name, order, look))
        return look

    return register


def in_order() -> list[Check]:
    """All checks in the order in which they run."""
    return sorted((CHECKS.get(name) for name in CHECKS.names()), key=lambda each: (each.order, each.name))
