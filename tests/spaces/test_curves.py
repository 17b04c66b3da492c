"""Cosines and splines over depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import InputError
from evomerge.spaces import Basis, Point, Space
from evomerge.spaces.basis import make_basis
from tests.spaces.points import numbers
from tests.spaces.test_space import make


def dct(depth: int, order: int) -> Basis:
    return make_basis("dct", depth, {"order": order})


def knots(depth: int, count: int) -> Basis:
    return make_basis("knots", depth, {"knots": count})


def curve(basis: Basis, coefficients: list[float], low: float, high: float) -> list[float]:
    return [basis.value(layer, coefficients, low, high) for layer in range(len(basis.matrix))]


def weights(space: Space, point: Point) -> list[float]:
    """Those of the first expert, layer by layer."""
    return [group["weight", "math"] for group in numbers(space.recipe(point))[:-1]]


def test_a_curve_of_cosines_is_the_level_with_its_log_odds_shifted() -> None:
    space = make(8, layers="dct", order=3, weight=[-0.5, 1.5])
    point: Point = {each.name: 0.3 for each in space.dimensions("ties")}
    point |= {"weight[math] level": 0.25, "weight[math] cos 1": 2.0, "weight[math] cos 2": -1.0}
    u0 = 0.75 / 2
    for layer, found in enumerate(weights(space, point)):
        x = (layer + 0.5) / 8
        power = math.exp(2.0 * math.cos(math.pi * x) - math.cos(2 * math.pi * x))
        assert found == pytest.approx(-0.5 + 2 * u0 * power / (1 - u0 + u0 * power), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 5, 100])
def test_the_curves_of_random_points_keep_their_distance_from_the_bounds_at_every_order(order: int) -> None:
    basis, generator = dct(100, order), np.random.default_rng(order)
    box = np.array([basis.bounds(column, 0.0, 1.0) for column in range(order)])
    curves = np.array([curve(basis, list(generator.uniform(*box.T)), 0.0, 1.0) for _ in range(100)])
    assert np.mean((curves > 0.05) & (curves < 0.95)) > 0.6


@given(depth=st.integers(1, 60), data=st.data())
@settings(deadline=None, max_examples=60)
def test_curves_of_cosines_stay_in_the_bounds_and_differ(depth: int, data: st.DataObject) -> None:
    order = data.draw(st.integers(1, depth))
    basis, low, high = dct(depth, order), -0.3, 1.1
    box = [basis.bounds(column, low, high) for column in range(order)]
    first = [data.draw(st.sampled_from([least, most, (2 * least + most) / 3])) for least, most in box]
    values = curve(basis, first, low, high)
    assert all(low <= value <= high for value in values)
    if low < first[0] < high:
        assert all(low < value < high for value in values)
        for column in range(order):
            other = list(first)
            other[column] += 0.01 * (sum(box[column]) / 2 - first[column])
            assert curve(basis, other, low, high) != values


def test_rounding_never_leaves_the_bounds() -> None:
    """A method refuses a density of 1 + 1e-16."""
    assert 0.12 + (1.2 - 0.12) > 1.2
    basis = Basis(names=("first", "second"), matrix=((1e-17, 1.0),), constant=(1.0, 1.0))
    assert basis.value(0, [0.12, 1.2], 0.0, 1.2) == 1.2


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_on_a_bound_the_shape_has_no_effect(level: float) -> None:
    assert curve(dct(6, 3), [level, 3.0, -2.0], 0.2, 1.0) == [level] * 6


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7, 1.2])
def test_constants_are_exact_and_the_shape_of_a_flat_curve_is_0(value: float) -> None:
    for basis in (dct(9, 4), knots(9, 4), knots(7, 5)):
        assert curve(basis, list(basis.flat(value)), 0.1, 1.2) == [value] * len(basis.matrix)
    assert dct(9, 4).flat(value) == (value, 0.0, 0.0, 0.0)


@given(depth=st.integers(2, 80), data=st.data())
@settings(deadline=None, max_examples=60)
def test_hats_are_a_partition_of_unity_that_layers_can_tell_apart(depth: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, depth))
    matrix = np.array(knots(depth, count).matrix)
    assert (matrix >= 0).all()
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert np.linalg.matrix_rank(matrix) == count
    assert ((matrix > 0).sum(axis=1) <= 2).all()


def test_a_spline_has_its_coefficients_at_its_knots_and_lines_between() -> None:
    space = make(9, layers="knots", knots=3)
    assert [d.name for d in space.dimensions("ties") if d.expert == "math"] == [
        "weight[math] at layer 0",
        "weight[math] at layer 4",
        "weight[math] at layer 8",
        "weight[math] outside layers",
    ]
    point: Point = {each.name: 0.5 for each in space.dimensions("ties")}
    point |= {"weight[math] at layer 0": 0.0, "weight[math] at layer 4": 1.0, "weight[math] at layer 8": 0.2}
    assert weights(space, point) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_as_many_knots_as_layers_give_each_layer_its_own() -> None:
    assert knots(6, 6).matrix == make_basis("per_layer", 6, {}).matrix


def test_names_tell_cosines_from_levels_and_what_lies_outside() -> None:
    space = make(6, layers="dct", order=3, modules=["attention", "other"])
    assert [d.name for d in space.dimensions("ties") if d.expert == "math"] == [
        "weight[math] attention level",
        "weight[math] attention cos 1",
        "weight[math] attention cos 2",
        "weight[math] other level",
        "weight[math] other cos 1",
        "weight[math] other cos 2",
        "weight[math] outside layers",
    ]


@pytest.mark.parametrize(("layers", "option"), [("dct", "order"), ("knots", "knots")])
def test_a_single_number_is_the_uniform_space(layers: str, option: str) -> None:
    one, uniform = make(6, layers=layers, **{option: 1}), make(6, layers="uniform")
    assert [d.name for d in one.dimensions("ties")] == [d.name for d in uniform.dimensions("ties")]
    point = uniform.constant("ties", {"weight": 0.4})[0]
    assert one.recipe(point).digest == uniform.recipe(point).digest


@pytest.mark.parametrize(
    ("config", "depths"),
    [
        ({"layers": "uniform"}, [None]),
        ({"layers": "blocks", "blocks": 2}, [0.25, 0.75, None]),
        ({"layers": "per_layer"}, [0.125, 0.375, 0.625, 0.875, None]),
        ({"layers": "dct"}, [None] * 5),
        ({"layers": "knots", "knots": 3}, [0.1875, 0.5, 0.8125, None]),
        ({"layers": "stack", "stack_block": 4, "repeats": 1}, [None, None]),
    ],
)
def test_dimensions_say_where_over_depth_they_lie(config: dict[str, object], depths: list[float | None]) -> None:
    found = [each.depth for each in make(4, **config).dimensions("ties") if each.expert != "lang"]
    assert found == pytest.approx(depths, abs=1e-12)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"layers": "dct", "order": 7}, "space.order must be from 1 to the number of layers (6), but got 7"),
        ({"layers": "dct", "order": 0}, "but got 0"),
        ({"layers": "dct", "order": 2.5}, "space.order must be a whole number, but got 2.5"),
        ({"layers": "knots", "knots": 7}, "space.knots must be from 1 to the number of layers (6), but got 7"),
        ({"layers": "knots", "knot": 3}, "got 'knot'; did you mean 'knots'?"),
    ],
)
def test_wrong_options_are_one_line_errors(config: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        make(6, **config)
    assert said in str(error.value)
