"""From a known recipe to the point nearest to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from evomerge.engine.recipe import Recipe, StackLayer
from evomerge.errors import InputError
from evomerge.spaces import LAYER_SPACES, METHOD, Merge, Space
from evomerge.spaces.basis import make_basis
from tests.spaces.points import numbers, random_point
from tests.spaces.test_space import SLERP, TIES, make

Groups = list[dict[str, Any]]
SLERP_TWO = Merge(SLERP.template.model_copy(update={"experts": TIES.template.experts}), SLERP.parameters)


def recipe(*groups: dict[str, Any], **fields: Any) -> Recipe:
    plain = {"base": "base", "experts": ["math", "lang"], "method": "ties"}
    return Recipe.model_validate({**plain, "groups": groups or [{}], **fields})


def uniform(**fields: Any) -> Recipe:
    return recipe({"parameters": {"weight": 0.5}}, **fields)


@pytest.mark.parametrize("name", LAYER_SPACES.names())
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=15)
def test_the_recipe_of_a_point_gives_the_point_back(name: str, seed: int) -> None:
    built = make(7, (TIES, SLERP_TWO), layers=name, modules=["attention", "q_proj", "other"], density=[0.2, 1.0])
    point = random_point(built, seed)
    found, sentences = built.nearest(built.recipe(point))
    assert sentences == []
    assert found.keys() == point.keys()
    assert found.get(METHOD) == point.get(METHOD)
    for each in built.active(point):
        assert found[each.name] == pytest.approx(point[each.name], abs=1e-6 * (each.high - each.low))
    assert built.active(found) == built.active(point)
    if name not in ("dct", "knots"):  # whose coefficients no layer shows as they are
        assert built.recipe(found).digest == built.recipe(point).digest


@pytest.mark.parametrize("name", LAYER_SPACES.names())
@pytest.mark.parametrize("value", [0.0, 0.3, 1.2])
def test_constants_are_kept_exactly(name: str, value: float) -> None:
    built = make(7, layers=name)
    given = recipe({"parameters": {"weight": {"math": value, "lang": 1 / 3}}})
    assert built.nearest(given) == built.constant("ties", {"weight": {"math": value, "lang": 1 / 3}})


@pytest.mark.parametrize("wanted", [[0.9, 0.2, 0.4, 0.1, 1.1, 0.3, 0.5, 0.8, 0.6], [0, 0, 0, 0, 1.2, 1.2, 1.2, 0, 0]])
@pytest.mark.parametrize(("name", "option"), [("blocks", "blocks"), ("knots", "knots"), ("dct", "order")])
def test_curves_that_the_space_lacks_are_fitted_by_least_squares_in_the_box(
    name: str, option: str, wanted: list[float]
) -> None:
    generator = np.random.default_rng(3)
    basis = make_basis(name, 9, {option: 3})
    built = make(9, layers=name, **{option: 3})
    layers: Groups = [
        {"layers": [layer, layer + 1], "parameters": {"weight": {"math": value, "lang": 0.5}}}
        for layer, value in enumerate(wanted)
    ]
    point, sentences = built.nearest(recipe(*layers, {"layers": "outside", "parameters": {"weight": 0.25}}))
    found = [float(point[each.name]) for each in built.dimensions("ties") if each.expert == "math" and each.modules]
    assert point["weight[math] outside layers"] == 0.25
    assert len(sentences) == 1
    assert sentences[0].startswith("weight[math] varies over the layers as the space cannot, by up to ")

    def errors(coefficients: Any) -> Any:
        return [basis.value(layer, list(coefficients), 0.0, 1.2) - value for layer, value in enumerate(wanted)]

    box = np.array([basis.bounds(column, 0.0, 1.2) for column in range(3)])
    starts = generator.uniform(*box.T, (10, 3))
    best = min(least_squares(errors, start, bounds=box.T).cost for start in starts)
    assert 0.5 * np.square(errors(found)).sum() <= best + 1e-9


def test_the_first_group_that_fits_counts() -> None:
    built = make(4, layers="per_layer", modules=["attention", "other"])
    given = recipe(
        {"layers": [1, 3], "modules": "attention", "parameters": {"weight": 0.1}},
        {"layers": [0, 2], "parameters": {"weight": 0.2}},
        {"modules": "attention", "parameters": {"weight": 0.3}},
        {"parameters": {"weight": {"math": 0.4, "lang": 0.6}}},
    )
    point, sentences = built.nearest(given)
    assert sentences == []
    assert [point[f"weight[math] attention layer {layer}"] for layer in range(4)] == [0.2, 0.1, 0.1, 0.3]
    assert [point[f"weight[math] other layer {layer}"] for layer in range(4)] == [0.2, 0.2, 0.4, 0.4]
    assert point["weight[math] outside layers"] == 0.4
    assert point["weight[lang] outside layers"] == 0.6


def test_options_and_defaults_hold_for_groups_that_do_not_name_a_number() -> None:
    built = make(4, layers="uniform", density=[0.2, 1.0], **{"lambda": [0.5, 2.0]})
    point, sentences = built.nearest(recipe({"parameters": {"weight": 0.5}}, options={"density": 0.7}))
    assert sentences == []
    assert point == {
        "weight[math]": 0.5, "weight[lang]": 0.5, "density[math]": 0.7, "density[lang]": 0.7, "lambda": 1.0,
    }  # fmt: skip


def test_modules_that_the_space_has_one_number_for_are_averaged_and_told() -> None:
    built = make(4, layers="blocks", blocks=1, modules=["attention", "other"])
    point, sentences = built.nearest(
        recipe(
            {"modules": "mlp", "parameters": {"weight": 0.2}}, {"parameters": {"weight": {"math": 0.4, "lang": 0.2}}}
        )
    )
    assert point["weight[math] attention layers 0-3"] == pytest.approx(0.4)
    assert point["weight[math] other layers 0-3"] == pytest.approx(0.3)
    assert "weight[math] differs between mlp and other, the mean is taken" in sentences
    assert not [sentence for sentence in sentences if "lang" in sentence]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (recipe({"parameters": {"weight": 1.5}}), "weight[math] 1.5 lies outside of its bounds, 1.2 is taken"),
        (uniform(options={"density": 0.3}), "density is fixed at 0.5, and 0.3 in the recipe"),
        (uniform(options={"lambda": 2.0}), "lambda is fixed at 1, and 2 in the recipe"),
        (uniform(options={"normalize": False}), "normalize is False in the recipe, and True is taken"),
        (uniform(dtype="float32"), "dtype is float32 in the recipe, and bfloat16 is taken"),
        (uniform(base="other"), "base is other in the recipe, and base is taken"),
        (uniform(experts=["lang", "math"]), "the experts come in the order math, lang, not lang, math"),
        (recipe({"parameters": {"weight": 0.5, "t": 0.1}}), "t is no parameter of ties"),
        (
            uniform(stack=[{"layer": 0}, {"layer": 0}]),
            "the recipe's stack is left out, for the space has each layer once and in order",
        ),
        (
            recipe(
                {"layers": "outside", "parameters": {"weight": {"math": 0.1, "lang": 0.5}}},
                {"parameters": {"weight": 0.5}},
            ),
            "weight[math] is 0.1 outside of layers, where the space has no number of its own",
        ),
        (
            recipe({"modules": "q_proj", "parameters": {"weight": 0.1}}, {"parameters": {"weight": 0.5}}),
            "the numbers of 'q_proj' are not taken for 'attention': the space cannot compare the two",
        ),
    ],
)
def test_what_cannot_be_kept_is_told(given: Recipe, said: str) -> None:
    _, sentences = make(4, layers="uniform", density=0.5).nearest(given)
    assert said in sentences


def test_nothing_is_told_where_all_is_kept() -> None:
    assert make(4, layers="uniform").nearest(uniform()) == ({"weight[math]": 0.5, "weight[lang]": 0.5}, [])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (uniform(method="tiess"), "the recipe's method must be one of ties, but got 'tiess'; did you mean 'ties'?"),
        (uniform(experts=["math", "code"]), "the recipe's experts must be math, lang, but are math, code"),
        (recipe({"layers": [0, 5]}), "0 <= start < stop <= 4, but got [0, 5]"),
        (recipe({"layers": [0, 3]}), "a group of the recipe must fit attention in layer 3, but none"),
        (recipe({"parameters": {"weight": {"math": 1.0}}}), "weight must have a number for lang, but got"),
    ],
)
def test_recipes_of_other_spaces_are_refused(given: Recipe, said: str) -> None:
    with pytest.raises(InputError) as error:
        make(4, layers="uniform").nearest(given)
    assert said in str(error.value)


def stacks() -> Space:
    return make(4, layers="stack", stack_block=2, stack_scale=[0.8, 1.2], max_layers=6)


@pytest.mark.parametrize(
    ("layers", "kept", "said"),
    [
        ([(2, 1.0), (3, 1.0), (0, 0.9), (1, 1.0)], True, []),
        ([(0, 1.0), (1, 1.0), (2, 1.5), (3, 1.0)], False, ["stack_scale 1.5 lies outside of its bounds, 1.2 is taken"]),
        ([(0, 1.1), (1, 1.0)], False, ["stack_scale 1.1 is left out: what enters the first layer is not scaled"]),
        ([(0, 1.0), (1, 1.1)], False, ["stack_scale 1.1 is left out: it stands inside of a block"]),
    ],
)
def test_a_stack_of_the_spaces_blocks_is_kept(layers: list[tuple[int, float]], kept: bool, said: list[str]) -> None:
    given = uniform(stack=[{"layer": layer, "scale": scale} for layer, scale in layers])
    point, sentences = stacks().nearest(given)
    stack = stacks().recipe(point).stack or tuple(StackLayer(layer=layer) for layer in range(4))
    assert sentences == said
    assert [layer.layer for layer in stack] == [layer for layer, _ in layers]
    assert (stack == given.stack) == kept


@pytest.mark.parametrize("order", [[0, 1, 3, 2], [1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 0, 1, 0, 1]])
def test_another_stack_gives_the_plain_model(order: list[int]) -> None:
    point, sentences = stacks().nearest(uniform(stack=[{"layer": layer} for layer in order]))
    assert sentences == ["the order of layers is none of the space's, the plain model's is taken"]
    assert stacks().recipe(point).stack is None


def test_numbers_of_points_are_those_of_their_recipes() -> None:
    """The helper that the other tests read recipes with."""
    assert numbers(uniform()) == [{("weight", ""): 0.5}]
