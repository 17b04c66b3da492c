"""Candidates to try before a sampler proposes any: known recipes, as points of the space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from evomerge.engine.method import METHODS
from evomerge.errors import InputError, unknown_name
from evomerge.search.config import is_recipe_file
from evomerge.search.recipes import read_recipe
from evomerge.spaces import Point, Space

SWEEP_STEPS = 6
_OF_SHARES = {"karcher", "nuslerp"}  # have no switch `normalize`

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
    """One number for all experts, at `SWEEP_STEPS` even steps from above its lower bound to its upper.

    Where the weights are shares of a whole, every such number makes the candidate of `uniform`, and there are none.
    """
    strength = space.strength(method)
    bounds = space.bounds(strength.name) if strength else None
    if strength is None or not isinstance(bounds, tuple) or _are_shares(space, method):
        return
    for value in np.linspace(*bounds, SWEEP_STEPS + 1)[1:]:
        number = round(float(value), 6)
        yield f"sweep {number:g}", {strength.name: dict.fromkeys(experts, number) if strength.per_expert else number}


def _are_shares(space: Space, method: str) -> bool:
    """Whether a common factor of the experts' weights changes nothing."""
    if method in _OF_SHARES:
        return True
    default = {spec.name: spec.default for spec in METHODS.get(method).parameters}.get("normalize", False)
    return bool(space.recipe(space.constant(method, {})[0]).options.get("normalize", default))


def _holds(bounds: tuple[float, float] | float | None, number: float) -> bool:
    low, high = bounds if isinstance(bounds, tuple) else (bounds, bounds)
    return low is not None and high is not None and low <= number <= high


WARM_STARTS: dict[str, Callable[[Space, str, Sequence[str]], Iterator[Start]]] = {
    "uniform": uniform,
    "experts": experts,
    "sweep": sweep,
}
GRADIENT = "gradient"


def check_warm_starts(names: Sequence[str], methods: Sequence[str] = (), experts: Sequence[str] = ()) -> None:
    """Raise InputError unless every entry is a warm start's name, or the path of a recipe to start from.

    Args:
        names: the entries of `search.warm_start`.
        methods: that the search chooses from; (): a recipe may have any.
        experts: their names; (): a recipe may have any.
    """
    for name in names:
        if not is_recipe_file(name):
            if name != GRADIENT and name not in WARM_STARTS:
                raise unknown_name("search.warm_start", name, [*WARM_STARTS, GRADIENT])
            continue
        recipe = read_recipe(Path(name))
        if methods and recipe.method not in methods:
            raise InputError(
                f"search.warm_start: a recipe's method must be one of merge.method ({', '.join(methods)}), but "
                f"{name} has {recipe.method}"
            )
        found = [expert.name for expert in recipe.experts]
        if experts and sorted(found) != sorted(experts):
            raise InputError(
                f"search.warm_start: a recipe's experts must be the search's by name ({', '.join(experts)}), but "
                f"{name} has {', '.join(found)}"
            )


def warm_starts(
    space: Space, experts: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, Point | None], list[str]]:
    """The points to try first by origin, and one line for each thing that could not be kept.

    Equal points are tried once, under both origins joined by a comma. `gradient`, whose point depends on the scores of
    the others, is None and comes last.
    """
    points: dict[str, Point | None] = {}
    notes: list[str] = []
    for origin, point, moved in _starts(space, experts, names):
        notes += [f"warm start {origin}: {sentence}" for sentence in moved]
        twin = next((known for known, other in points.items() if other == point), None)
        if twin is not None:
            del points[twin]
        label = origin if twin is None else f"{twin}, {origin}"
        while label in points:  # recipes of one name in two folders
            label += " again"
        points[label] = point
    if GRADIENT in names:
        points[GRADIENT] = None
    return points, notes


def _starts(space: Space, experts: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, Point, Sequence[str]]]:
    """Origin, point, and what could not be kept, of each start."""
    several = len(space.methods) > 1
    for name in names:
        if name == GRADIENT:
            continue
        if is_recipe_file(name):
            yield (f"recipe {Path(name).name}", *space.nearest(read_recipe(Path(name))))
            continue
        for method in space.methods:
            for label, numbers in WARM_STARTS[name](space, method, experts):
                yield (f"{label} ({method})" if several else label, *space.constant(method, numbers))
