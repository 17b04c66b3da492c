"""The contract of every layer space, and of the box built on it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine.recipe import Group, ParameterSpec, Recipe
from evomerge.errors import InputError
from evomerge.spaces import LAYER_SPACES, METHOD, Merge, Space, SpaceConfig
from tests.spaces.points import numbers, random_point

WEIGHT = ParameterSpec(
    name="weight", kind="number", default=1.0, per_expert=True, low=-10.0, high=10.0, search=(0.0, 1.2)
)
DENSITY = ParameterSpec(name="density", kind="number", default=1.0, per_expert=True, low=0.0, high=1.0)
SCALE = ParameterSpec(name="lambda", kind="number", default=1.0, low=-10.0, high=10.0)
MIX = ParameterSpec(name="t", kind="number", default=0.5, low=0.0, high=1.0, search=(0.0, 1.0))
NORMALIZE = ParameterSpec(name="normalize", kind="switch", default=True)


def template(method: str, experts: tuple[str, ...] = ("math", "lang")) -> Recipe:
    return Recipe.model_validate({"base": "base", "experts": experts, "method": method})


TIES = Merge(template("ties"), (WEIGHT, DENSITY, SCALE, NORMALIZE))
SLERP = Merge(template("slerp", ("math",)), (MIX,))


def make(depth: int = 6, merges: tuple[Merge, ...] = (TIES,), **config: object) -> Space:
    return Space(SpaceConfig.model_validate(config), depth, merges)


def coverage(groups: tuple[Group, ...], layers: int) -> list[int]:
    """How many groups of the module list's first entry hold each layer, then how many hold what lies outside."""
    first = [group for group in groups if group.modules == groups[0].modules or group.layers == "outside"]
    inside = [
        sum(
            group.layers == "all" or (isinstance(group.layers, tuple) and group.layers[0] <= layer < group.layers[1])
            for group in first
        )
        for layer in range(layers)
    ]
    return [*inside, sum(group.layers in ("all", "outside") for group in first)]


@pytest.mark.parametrize("name", LAYER_SPACES.names())
@pytest.mark.parametrize("layers", [1, 2, 5, 12, 32])
class TestEveryLayerSpace:
    """A new layer space is under these tests as soon as its file exists."""

    def space(self, name: str, layers: int) -> Space:
        fewer = {"blocks": {"blocks": 5}, "dct": {"order": 4}, "knots": {"knots": 5}}.get(name, {})
        options = {option: min(number, layers) for option, number in fewer.items()}
        return make(layers, layers=name, modules=["attention", "mlp", "other"], density=[0.2, 1.0], **options)

    def test_names_are_unique_and_bounds_are_the_users(self, name: str, layers: int) -> None:
        dimensions = [each for each in self.space(name, layers).dimensions("ties") if " cos " not in each.name]
        assert len({dimension.name for dimension in dimensions}) == len(dimensions) > 0
        assert {(d.low, d.high) for d in dimensions if d.parameter == "weight"} == {(0.0, 1.2)}
        assert {(d.low, d.high) for d in dimensions if d.parameter == "density"} == {(0.2, 1.0)}

    def test_every_layer_and_the_outside_belong_to_one_group_a_module(self, name: str, layers: int) -> None:
        space = self.space(name, layers)
        recipe = space.recipe(space.constant("ties", {})[0])
        assert coverage(recipe.groups, layers) == [1] * (layers + 1)

    def test_values_of_a_random_point_stay_in_the_bounds(self, name: str, layers: int) -> None:
        space = self.space(name, layers)
        for seed in range(5):
            recipe = space.recipe(random_point(space, seed, margin=0.0))
            for group in numbers(recipe):
                assert all(0.0 <= value <= 1.2 for (parameter, _), value in group.items() if parameter == "weight")
                assert all(0.2 <= value <= 1.0 for (parameter, _), value in group.items() if parameter == "density")

    def test_the_constant_point_gives_every_group_the_same_numbers(self, name: str, layers: int) -> None:
        space = self.space(name, layers)
        point, moved = space.constant("ties", {"weight": {"math": 0.3, "lang": 0.9}, "density": 0.5})
        assert moved == []
        for group in space.recipe(point).groups:
            weight = group.parameters["weight"]
            assert isinstance(weight, dict)
            assert weight["math"] == pytest.approx(0.3, abs=1e-12)
            assert weight["lang"] == pytest.approx(0.9, abs=1e-12)

    @settings(deadline=None, max_examples=15)
    @given(seed=st.integers(0, 10**6), chosen=st.integers(0, 10**6), share=st.floats(0.01, 0.99))
    def test_what_is_active_moves_the_recipe_and_nothing_else_does(
        self, name: str, layers: int, seed: int, chosen: int, share: float
    ) -> None:
        space = self.space(name, layers)
        point = random_point(space, seed)
        dimensions = space.dimensions("ties")
        each = dimensions[chosen % len(dimensions)]
        value = 1 - int(point[each.name]) if each.is_gate else each.low + share * (each.high - each.low)
        moved = {**point, each.name: value}
        same = space.recipe(moved).digest == space.recipe(point).digest
        assert same == (each not in space.active(point) or value == point[each.name])

    @settings(deadline=None, max_examples=5)
    @given(seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).filter(lambda pair: pair[0] != pair[1]))
    def test_different_points_give_different_recipes(self, name: str, layers: int, seeds: tuple[int, int]) -> None:
        space = self.space(name, layers)
        first, second = (space.recipe(random_point(space, seed)) for seed in seeds)
        assert first.digest != second.digest

    def test_a_recipe_needs_the_active_dimensions_alone(self, name: str, layers: int) -> None:
        space = self.space(name, layers)
        for seed in range(5):
            point = random_point(space, seed)
            needed = {each.name: point[each.name] for each in space.active(point)}
            assert space.recipe(needed).digest == space.recipe(point).digest
            assert space.active(needed) == space.active(point)
            for each in needed:
                with pytest.raises(InputError, match="but got None"):
                    space.recipe({other: value for other, value in needed.items() if other != each})


@given(layers=st.integers(1, 100), data=st.data())
@settings(deadline=None, max_examples=60)
def test_blocks_are_even_to_within_one_layer(layers: int, data: st.DataObject) -> None:
    blocks = data.draw(st.integers(2, layers)) if layers > 1 else 1
    space = make(layers, layers="blocks", blocks=blocks)
    groups = [group for group in space.recipe(space.constant("ties", {})[0]).groups if isinstance(group.layers, tuple)]
    lengths = [group.layers[1] - group.layers[0] for group in groups if isinstance(group.layers, tuple)]
    if blocks > 1:
        assert len(lengths) == blocks
        assert sum(lengths) == layers
        assert max(lengths) - min(lengths) <= 1


def test_a_uniform_space_over_everything_has_one_number_for_each_expert() -> None:
    names = [dimension.name for dimension in make(layers="uniform").dimensions("ties")]
    assert names == ["weight[math]", "weight[lang]"]


def test_other_means_whatever_the_modules_before_it_leave() -> None:
    space = make(layers="uniform", modules=["attention", "other"])
    groups = space.recipe(space.constant("ties", {})[0]).groups
    assert [group.modules for group in groups] == ["attention", "all"]


def test_a_number_fixes_a_parameter_and_reaches_the_recipe() -> None:
    space = make(layers="uniform", density=0.4)
    assert [dimension.parameter for dimension in space.dimensions("ties")] == ["weight", "weight"]
    assert space.recipe(space.constant("ties", {})[0]).groups[0].parameters["density"] == 0.4


def test_a_parameter_that_is_not_per_expert_has_one_dimension_a_group() -> None:
    space = make(layers="uniform", weight=1.0, **{"lambda": [0.0, 2.0]})
    assert [dimension.name for dimension in space.dimensions("ties")] == ["lambda"]
    assert space.recipe({"lambda": 1.5}).groups[0].parameters == {"weight": 1.0, "lambda": 1.5}


def test_several_methods_share_the_dimensions_they_both_have() -> None:
    linear = Merge(template("linear"), (WEIGHT.model_copy(update={"search": (0.0, 1.0)}),))
    space = make(merges=(TIES, linear), layers="uniform", density=[0.5, 1.0])
    assert [d.name for d in space.dimensions("linear")] == ["weight[math]", "weight[lang]"]
    assert len(space.dimensions("ties")) == 4
    assert {(d.low, d.high) for d in space.dimensions("linear")} == {(0.0, 1.2)}
    recipe = space.recipe({METHOD: "linear", "weight[math]": 0.1, "weight[lang]": 0.2})
    assert recipe.method == "linear"


def test_the_chosen_method_decides_which_dimensions_are_active() -> None:
    linear = Merge(template("linear"), (WEIGHT,))
    space = make(merges=(TIES, linear), layers="dct", order=2, density=[0.5, 1.0])
    point = random_point(space, 0)
    for method in ("ties", "linear"):
        chosen = {**point, **{each.name: each.low for each in space.dimensions("ties")}, METHOD: method}
        assert space.active(chosen) == space.dimensions(method)
        assert space.recipe(chosen).method == method
    of_linear = {METHOD: "linear", **{each.name: each.high for each in space.dimensions("linear")}}
    noise = {each.name: 0.7 for each in space.dimensions("ties") if each.parameter == "density"}
    assert space.recipe({**of_linear, **noise}).digest == space.recipe(of_linear).digest
    with pytest.raises(InputError, match="must be one of linear, ties, but got 'tie'; did you mean 'ties'"):
        space.active({**point, METHOD: "tie"})


def test_numbers_outside_of_the_box_are_moved_and_told() -> None:
    space = make(layers="uniform", weight=[0.2, 0.8])
    point, moved = space.constant("ties", {"weight": {"math": 1.0, "lang": 0.0}})
    assert point == {"weight[math]": 0.8, "weight[lang]": 0.2}
    assert moved == [
        "weight 1 lies outside of its bounds, 0.8 is taken",
        "weight 0 lies outside of its bounds, 0.2 is taken",
    ]


def test_the_strength_of_a_method_is_what_says_how_much_goes_in() -> None:
    assert make().strength("ties").name == "weight"
    assert make(merges=(SLERP,)).strength("slerp").name == "t"


def test_the_configuration_survives_a_round_trip() -> None:
    config = SpaceConfig.model_validate({"layers": "blocks", "blocks": 3, "weight": [0, 1], "density": 0.5})
    assert SpaceConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.model_dump(mode="json")["blocks"] == 3


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"layers": "block"}, "got 'block'; did you mean 'blocks'?"),
        ({"wieght": [0, 1]}, "got 'wieght'; did you mean 'weight'?"),
        ({"weight": [1.0, 0.5]}, "low < high, but got [1, 0.5]"),
        ({"weight": [0.5, 0.5]}, "low < high"),
        ({"weight": [0, 11]}, "range [-10, 10], but got [0, 11]"),
        ({"density": 1.5}, "range [0, 1], but got 1.5"),
        ({"weight": "much"}, "a number or bounds [low, high], but got 'much'"),
        ({"weight": [0, 1, 2]}, "a number or bounds"),
        ({"weight": True}, "a number or bounds"),
        ({"weight": [0, math.nan]}, "low < high"),
        ({"blocks": 7}, "from 1 to the number of layers (6), but got 7"),
        ({"blocks": 0}, "but got 0"),
        ({"blocks": 2.5}, "whole number, but got 2.5"),
        ({"blocks": "two"}, "whole number, but got 'two'"),
        ({"normalize": 1}, "a key of space"),
        ({"layers": "uniform", "weight": 1.0}, "must leave a number to search"),
    ],
)
def test_wrong_settings_are_one_line_errors(config: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        make(**config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("modules", [["mlp", "mlp"], ["all", "mlp"], [], ["mlp", ""]])
def test_wrong_modules_are_refused(modules: list[str]) -> None:
    with pytest.raises(ValueError, match=r"modules|at least 1"):
        SpaceConfig.model_validate({"modules": modules})


@pytest.mark.parametrize("value", [1.3, -0.1, None, "x"])
def test_a_point_outside_of_the_box_has_no_recipe(value: object) -> None:
    space = make(layers="uniform")
    with pytest.raises(InputError, match=r"weight\[math\] must be in \[0.0, 1.2\]"):
        space.recipe({"weight[math]": value, "weight[lang]": 0.5})  # type: ignore[dict-item]
