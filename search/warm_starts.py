"""Candidates to try before a sampler proposes any: known recipes, as points of the space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from evomerge.errors import unknown_name
from evomerge.spaces import Point, Space

SWEEP_STEPS = 6

Start = tuple[str, dict[str, float | dict[str, float]]]


def uniform(space: Space, method: str, experts: Sequence[str]) -> Iterator[Start]:
    """All experts alike: weights 1/n, or a method's half-way; a method without numbers as it is."""
    strength = space.strength(method)
    if strength is None:
        yield "uniform", {}
        return
    value = {name: 1 / len(experts) for name in experts} if strength.per_expert else float(strength.default)
    yield "uniform", {strength.name: value}


def experts(space: Space, method: str, experts: Sequence[str]) -> Iterator[Start]:
    """Each expert alone, where the method's numbers can say so."""
    strength = space.strength(method)
    if strength is None:
        return
    if not strength.per_expert and not (len(experts) == 1 and _holds(space.bounds(strength.name), 1.0)):
        return
    for name in experts:
        alone = {other: float(other == name) for other in experts}
        yield f"expert {name}", {strength.name: alone if strength.per_expert else 1.0}


def sweep(space: Space, method: str, experts: Sequence[str]) -> Iterator[Start]:
    """One number for all experts, at `SWEEP_STEPS` even steps from above its lower bound to its upper."""
    strength = space.strength(method)
    bounds = space.bounds(strength.name) if strength else None
    if strength is None or not isinstance(bounds, tuple):
        return
    for value in np.linspace(*bounds, SWEEP_STEPS + 1)[1:]:
        number = round(float(value), 6)
        yield f"sweep {number:g}", {strength.name: dict.fromkeys(experts, number) if strength.per_expert else number}


def _holds(bounds: tuple[float, float] | float | None, number: float) -> bool:
    low, high = bounds if isinstance(bounds, tuple) else (bounds, bounds)
    return low is not None and high is not None and low <= number <= high


WARM_STARTS: dict[str, Callable[[Space, str, Sequence[str]], Iterator[Start]]] = {
    "uniform": uniform,
    "experts": experts,
    "sweep": sweep,
}
_LATER = {"gradient"}


def check_warm_starts(names: Sequence[str]) -> None:
    """Raise InputError unless every name is a warm start's."""
    for name in names:
        if name not in WARM_STARTS:
            later = " (gradient comes in a later version)" if name in _LATER else ""
            raise unknown_name(f"search.warm_start{later}", name, WARM_STARTS)


def warm_starts(space: Space, experts: Sequence[str], names: Sequence[str]) -> tuple[dict[str, Point], list[str]]:
    """The points to try first by origin, and one line for each that had to be moved into the box.

    Equal points are tried once, under both origins joined by a comma.
    """
    points: dict[str, Point] = {}
    notes: list[str] = []
    several = len(space.methods) > 1
    for name in names:
        for method in space.methods:
            for label, numbers in WARM_STARTS[name](space, method, experts):
                origin = f"{label} ({method})" if several else label
                point, moved = space.constant(method, numbers)
                notes += [f"warm start {origin}: {sentence}" for sentence in moved]
                twin = next((known for known, other in points.items() if other == point), None)
                if twin is not None:
                    origin = f"{twin}, {origin}"
                    del points[twin]
                points[origin] = point
    return points, notes
