"""Random points of a space, and what their recipes hold."""

from __future__ import annotations

import random

from evomerge.engine.recipe import Recipe
from evomerge.spaces import METHOD, Point, Space


def random_point(space: Space, seed: int, margin: float = 0.02) -> Point:
    """A whole point of a random method, uniform in the box but for a margin on each side."""
    generator = random.Random(seed)
    method = generator.choice(space.methods)
    point: Point = {METHOD: method} if len(space.methods) > 1 else {}
    for each in space.dimensions(method):
        inside = generator.uniform(margin, 1 - margin)
        point[each.name] = generator.randint(0, 1) if each.is_gate else each.low + inside * (each.high - each.low)
    return point


def numbers(recipe: Recipe) -> list[dict[tuple[str, str], float]]:
    """The numbers of each group by (parameter, expert)."""
    return [
        {
            (parameter, expert): number
            for parameter, given in group.parameters.items()
            for expert, number in (given.items() if isinstance(given, dict) else [("", given)])
        }
        for group in recipe.groups
    ]
