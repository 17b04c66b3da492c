"""The derivative with respect to a point, against central differences of its recipe."""

from __future__ import annotations

import math

import pytest

from evomerge.spaces import LAYER_SPACES, Point, Space
from tests.spaces.points import numbers, random_point
from tests.spaces.test_space import make

STEP = 1e-6


def function(space: Space, point: Point) -> float:
    """A smooth function of all numbers of a recipe, in which each group and number has a part of its own."""
    return sum(
        math.sin((1 + index) * number + len(expert) + len(parameter))
        for index, group in enumerate(numbers(space.recipe(point)))
        for (parameter, expert), number in group.items()
    )


def slopes(space: Space, point: Point) -> list[dict[tuple[str, str], float]]:
    """The function's derivatives with respect to the numbers."""
    return [
        {
            (parameter, expert): (1 + index) * math.cos((1 + index) * number + len(expert) + len(parameter))
            for (parameter, expert), number in group.items()
        }
        for index, group in enumerate(numbers(space.recipe(point)))
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAYER_SPACES.names())
def test_it_equals_central_differences(name: str, seed: int) -> None:
    built = make(7, layers=name, modules=["attention", "other"], density=[0.2, 1.0], **{"lambda": [0.5, 2.0]})
    point = random_point(built, seed)
    found = built.gradient(point, slopes(built, point))
    expected = {each for each in built.dimensions("ties") if not each.parameter.startswith("stack")}
    assert set(found) == {each.name for each in expected}
    for each in expected:
        value = float(point[each.name])
        ends = [function(built, point | {each.name: value + step}) for step in (-STEP, STEP)]
        assert found[each.name] == pytest.approx((ends[1] - ends[0]) / (2 * STEP), rel=1e-5, abs=1e-6)


def test_dimensions_without_a_slope_have_no_entry() -> None:
    built = make(4, layers="blocks", blocks=2, density=[0.2, 1.0])
    point = random_point(built, 0)
    given = [{("weight", "math"): 2.0}, {}, {("weight", "math"): 3.0}]
    assert built.gradient(point, given) == {
        "weight[math] layers 0-1": 2.0,
        "weight[math] layers 2-3": 0.0,
        "weight[math] outside layers": 3.0,
    }


def test_there_must_be_slopes_for_each_group() -> None:
    built = make(4, layers="blocks", blocks=2)
    with pytest.raises(ValueError, match="shorter"):
        built.gradient(random_point(built, 0), [{}, {}])
