"""The space of layer stacks: slots, gates and scales."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine.recipe import MERGED, ParameterSpec, Recipe, StackLayer
from evomerge.errors import InputError
from evomerge.spaces import LAYER_SPACES, Merge, Point, Space, SpaceConfig
from tests.spaces.points import random_point
from tests.spaces.test_space import TIES, make, template

PLAIN = tuple(StackLayer(layer=layer) for layer in range(3))


def space(depth: int = 6, **config: Any) -> Space:
    return make(depth, layers="stack", **config)


def gates(built: Space, opened: Sequence[int]) -> Point:
    """The plain point with only the gates at these positions at 1."""
    point, _ = built.constant("ties", {})
    names = [d.name for d in built.dimensions("ties") if d.is_gate]
    return point | {name: int(slot in opened) for slot, name in enumerate(names)}


def active(built: Space, point: Point) -> list[str]:
    """The names of the dimensions that stack layers and matter at a point."""
    return [d.name for d in built.active(point) if d.parameter != "weight"]


def layers(recipe: Recipe) -> list[tuple[str, int]]:
    assert recipe.stack is not None
    return [(layer.source, layer.layer) for layer in recipe.stack]


def test_dimensions_are_the_methods_and_a_gate_and_a_scale_for_each_block_of_each_pass() -> None:
    assert [d.name for d in space(stack_block=3).dimensions("ties")] == [
        "weight[math]",
        "weight[lang]",
        "stack_gate[merged] pass 1 layers 0-2",
        "stack_gate[merged] pass 1 layers 3-5",
        "stack_gate[merged] pass 2 layers 0-2",
        "stack_gate[merged] pass 2 layers 3-5",
        "stack_scale[merged] pass 1 layers 3-5",
        "stack_scale[merged] pass 2 layers 0-2",
        "stack_scale[merged] pass 2 layers 3-5",
    ]


@pytest.mark.parametrize("modules", [["all"], ["attention", "mlp", "other"]])
@pytest.mark.parametrize("sources", ["merged", ["merged", "math"], ["base", "merged"]])
def test_the_constant_point_is_the_unstacked_recipe(modules: list[str], sources: Any) -> None:
    numbers = {"weight": {"math": 0.3, "lang": 0.9}}
    built, plain = space(modules=modules, sources=sources), make(layers="uniform", modules=modules)
    point, moved = built.constant("ties", numbers)
    recipe = built.recipe(point)
    assert moved == []
    assert recipe.stack is None
    assert recipe.digest == plain.recipe(plain.constant("ties", numbers)[0]).digest


def test_open_slots_in_order_with_scales_between_them() -> None:
    built = space(stack_block=2)
    point = gates(built, [5, 0, 2, 3])
    point |= {"stack_scale[merged] pass 1 layers 4-5": 0.9, "stack_scale[merged] pass 2 layers 0-1": 1.1}
    assert built.recipe(point).stack == (
        StackLayer(layer=0),
        StackLayer(layer=1),
        StackLayer(layer=4, scale=0.9),
        StackLayer(layer=5),
        StackLayer(layer=0, scale=1.1),
        StackLayer(layer=1),
        StackLayer(layer=4),
        StackLayer(layer=5),
    )


def test_what_enters_the_first_layer_is_never_scaled() -> None:
    built = space(stack_block=2)
    point = gates(built, [2]) | {"stack_scale[merged] pass 1 layers 4-5": 0.9}
    assert built.recipe(point).stack == (StackLayer(layer=4), StackLayer(layer=5))
    assert not [name for name in active(built, point) if name.startswith("stack_scale")]


def test_the_layers_of_named_models_stand_beside_the_merged_ones_in_each_pass() -> None:
    built = space(2, sources=["merged", "math"], stack_block=1, stack_scale=1.0)
    assert layers(built.recipe(gates(built, range(8)))) == [
        (source, layer) for _ in range(2) for source in ("merged", "math") for layer in range(2)
    ]


def test_where_nothing_else_is_in_the_last_block_is_in_without_a_gate() -> None:
    built = space(stack_block=2)
    point = gates(built, [])
    assert layers(built.recipe(point)) == [(MERGED, 4), (MERGED, 5)]
    assert active(built, point) == [
        "stack_gate[merged] pass 1 layers 0-1",
        "stack_gate[merged] pass 1 layers 2-3",
        "stack_gate[merged] pass 2 layers 0-1",
        "stack_gate[merged] pass 2 layers 2-3",
        "stack_gate[merged] pass 2 layers 4-5",
    ]


def test_a_refused_block_has_a_gate_again_once_another_is_taken() -> None:
    built = space(stack_block=2, stack_scale=1.0)
    point = gates(built, [0, 1, 5])
    assert layers(built.recipe(point)) == [(MERGED, layer) for layer in range(4)]
    assert "stack_gate[merged] pass 2 layers 4-5" not in active(built, point)
    point = gates(built, [0, 1, 3, 5])
    assert layers(built.recipe(point)) == [(MERGED, layer) for layer in (0, 1, 2, 3, 0, 1, 4, 5)]


def test_blocks_that_do_not_fit_have_no_gate() -> None:
    built = space(5, stack_block=2, max_layers=5, stack_scale=1.0)
    point = gates(built, [0, 1, 3, 4, 5])
    assert layers(built.recipe(point)) == [(MERGED, layer) for layer in (0, 1, 2, 3)]
    assert active(built, point) == [f"stack_gate[merged] pass 1 layers {block}" for block in ("0-1", "2-3", "4-4")]


@pytest.mark.parametrize("value", [None, 0.5, 2, "1"])
def test_a_gate_is_0_or_1(value: Any) -> None:
    built = space(stack_block=3)
    point = gates(built, [0, 1]) | {"stack_gate[merged] pass 2 layers 0-2": value}
    for ask in (built.recipe, built.active):
        with pytest.raises(InputError, match=r"stack_gate\[merged\] pass 2 layers 0-2 must be 0 or 1, but got"):
            ask(point)


@pytest.mark.parametrize("limit", [3, 4, 6])
@pytest.mark.parametrize("sources", [["merged"], ["merged", "math"]])
def test_gates_that_matter_and_stacks_are_one_to_one(sources: list[str], limit: int) -> None:
    """Settings of the gates that agree on the active ones are one stack, others another, and every one is there."""
    built = space(3, stack_block=1, sources=sources, max_layers=limit, stack_scale=1.0, weight=1.0)
    names = [d.name for d in built.dimensions("ties")]
    stack_of: dict[frozenset[tuple[str, Any]], set[Any]] = {}
    for values in itertools.product((0, 1), repeat=len(names)):
        point: Point = dict(zip(names, values, strict=True))
        mattering = frozenset((each.name, point[each.name]) for each in built.active(point))
        stack_of.setdefault(mattering, set()).add(built.recipe(point).stack)
    assert all(len(stacks) == 1 for stacks in stack_of.values())
    reached = set.union(*stack_of.values())
    assert len(reached) == len(stack_of)
    slots = [(source, layer) for _ in range(2) for source in sources for layer in range(3)]
    wanted = {some for size in range(1, limit + 1) for some in itertools.combinations(slots, size)}
    assert {tuple((layer.source, layer.layer) for layer in stack or PLAIN) for stack in reached} == wanted


@given(
    depth=st.integers(1, 40),
    block=st.none() | st.integers(1, 12),
    repeats=st.integers(1, 3),
    extra=st.none() | st.integers(0, 30),
    sources=st.sampled_from([["merged"], ["merged", "math"], ["lang", "base", "merged"]]),
    data=st.data(),
)
@settings(deadline=None, max_examples=100)
def test_every_point_of_the_box_is_a_model_within_its_limits(
    depth: int, block: int | None, repeats: int, extra: int | None, sources: list[str], data: st.DataObject
) -> None:
    limit = None if extra is None else depth + extra
    built = space(depth, stack_block=block, repeats=repeats, max_layers=limit, sources=sources)
    point = random_point(built, data.draw(st.integers(0, 10**6)), margin=0.0)
    recipe = built.recipe(point)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    stack = recipe.stack or tuple(StackLayer(layer=layer) for layer in range(depth))
    assert 1 <= len(stack) <= (limit or repeats * len(sources) * depth)
    assert {layer.source for layer in stack} <= set(sources)
    assert all(layer.layer < depth and 0.8 <= layer.scale <= 1.2 for layer in stack)
    assert stack[0].scale == 1.0


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (8, 8), (9, 5), (24, 8), (32, 8), (80, 8)])
def test_a_pass_has_at_most_eight_blocks_by_default(depth: int, blocks: int) -> None:
    names = [d for d in space(depth, repeats=1).dimensions("ties") if d.is_gate]
    assert len(names) == blocks


def test_a_number_fixes_the_scale() -> None:
    built = space(stack_block=3, stack_scale=0.9)
    assert {d.parameter for d in built.dimensions("ties")} == {"weight", "stack_gate"}
    stack = built.recipe(gates(built, [1, 2])).stack
    assert stack is not None
    assert [layer.scale for layer in stack] == [1.0, 1.0, 1.0, 0.9, 1.0, 1.0]


@pytest.mark.parametrize(("scale", "nearest"), [([0.5, 0.9], "0.9"), (1.1, "1.1")])
def test_bounds_that_leave_out_the_plain_model_are_told(scale: Any, nearest: str) -> None:
    built = space(stack_scale=scale)
    point, moved = built.constant("ties", {})
    assert moved == [f"stack_scale 1 lies outside of its bounds, {nearest} is taken"]
    assert built.recipe(point).stack is not None


def test_gates_are_searched_even_where_every_number_is_fixed() -> None:
    assert {d.parameter for d in space(weight=1.0, stack_scale=1).dimensions("ties")} == {"stack_gate"}


def test_several_methods_share_the_gates() -> None:
    spec = ParameterSpec(name="lambda", kind="number", default=1.0, low=0.0, high=2.0, search=(0.0, 1.0))
    built = space(merges=(TIES, Merge(template("other"), (spec,))))
    shared = [{d.name for d in built.dimensions(method)} for method in ("ties", "other")]
    assert sum(name.startswith("stack_gate") for name in shared[0] & shared[1]) == 2 * 6
    assert sum(name.startswith("stack_scale") for name in shared[0] & shared[1]) == 2 * 6 - 1


def test_other_spaces_have_no_stack() -> None:
    for name in LAYER_SPACES.names():
        if name != "stack":
            built = make(layers=name, stack_scale=0.9)
            assert built.recipe(built.constant("ties", {})[0]).stack is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"repeats": 0}, "space.repeats must be at least 1, but got 0"),
        ({"repeats": 1.5}, "space.repeats must be a whole number, but got 1.5"),
        ({"stack_block": 0}, "space.stack_block must be at least 1, but got 0"),
        ({"stack_block": "two"}, "space.stack_block must be a whole number, but got 'two'"),
        ({"max_layers": 5}, "space.max_layers must be at least the model's number of layers (6), but got 5"),
        ({"stack_scale": [1.2, 0.8]}, "low < high <= 10, or a number in between, but got [1.2, 0.8]"),
        ({"stack_scale": [1.0, 1.0]}, "low < high"),
        ({"stack_scale": 0.0}, "0.1 <= low"),
        ({"stack_scale": [0.8, 1.0, 1.2]}, "low < high"),
        ({"stack_scale": "more"}, "but got 'more'"),
        ({"stack_scale": True}, "but got True"),
        ({"sources": ["math"]}, "space.sources must be merged or a list of it and of models, each once"),
        ({"sources": ["merged", "math", "math"]}, "each once, but got ['merged', 'math', 'math']"),
        ({"sources": 3}, "but got 3"),
        ({"sources": ["merged", "maths"]}, "but got 'maths'; did you mean 'math'?"),
        ({"repeat": 3}, "got 'repeat'; did you mean 'repeats'?"),
    ],
)
def test_wrong_settings_are_one_line_errors(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        space(**config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_called_merged_is_refused() -> None:
    merge = Merge(template("ties", ("merged",)), TIES.parameters)
    with pytest.raises(InputError, match="may be called 'merged'"):
        space(merges=(merge,))


def test_the_configuration_survives_a_round_trip() -> None:
    config = SpaceConfig.model_validate({"layers": "stack", "repeats": 3, "sources": ["merged", "math"]})
    assert SpaceConfig.model_validate(config.model_dump(mode="json")) == config
