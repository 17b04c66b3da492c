"""From a point in a bounded box to a Recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.engine.recipe import Group, Layers, ParameterSpec, Recipe
from evomerge.errors import InputError, unknown_name
from evomerge.spaces.basis import LAYER_SPACES, Dimension, make_basis, options_of
from evomerge.spaces.config import SpaceConfig
from evomerge.spaces.curve import OUTSIDE, Curve, CurveKey
from evomerge.spaces.nearest import nearest_numbers, note_settings
from evomerge.spaces.reading import RecipeReader
from evomerge.spaces.stack import STACKING
from evomerge.spaces.uniform import uniform

METHOD = "method"
Point = dict[str, float | str]
Numbers = Mapping[str, float | Mapping[str, float]]

SINGLE = uniform(1)
"""The basis of what lies in no layer."""


@dataclass(frozen=True)
class Merge:
    """One method that the search may choose: the recipe whose groups are to be filled, and the method's parameters."""

    template: Recipe
    parameters: tuple[ParameterSpec, ...]


class Space:
    """A bounded box, and the recipe of every point in it.

    Args:
        config: the section `space`.
        num_layers: decoder layers of the model.
        merges: the methods to choose from, at least one; with several, the point has the entry "method".

    Raises:
        InputError: for unknown names, and for bounds that are reversed, empty or outside the method's range.
    """

    def __init__(self, config: SpaceConfig, num_layers: int, merges: Sequence[Merge]) -> None:
        self._check_settings(config, merges)
        self._num_layers = num_layers
        self._basis = make_basis(config.layers, num_layers, config.settings)
        self._stacking = self._basis.stacking
        self._modules = config.modules
        self._settings = config.settings
        self._merges = {merge.template.method: merge for merge in merges}
        self._bounds = {
            spec.name: _bounds(spec, config.settings.get(spec.name), merges)
            for merge in merges
            for spec in merge.parameters
            if spec.kind == "number"
        }
        for merge in merges:
            if self._stacking:
                self._stacking.check(merge.template)
        self._curves = {method: self._curves_of(merge) for method, merge in self._merges.items()}
        self._dimensions = {
            method: tuple(each for curve in curves.values() for each in curve.dimensions)
            + (self._stacking.dimensions() if self._stacking else ())
            for method, curves in self._curves.items()
        }
        for method in self.methods:
            if not self.dimensions(method):
                raise InputError(
                    f"space must leave a number to search, but every parameter of {method} is fixed;"
                    " `evomerge merge` makes its one candidate"
                )

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods to choose from."""
        return tuple(self._merges)

    def dimensions(self, method: str) -> tuple[Dimension, ...]:
        """All dimensions of `method`: those of its numbers, then those that stack layers."""
        return self._dimensions[method]

    def active(self, point: Mapping[str, float | str]) -> tuple[Dimension, ...]:
        """The dimensions that the recipe of a point depends on, in their order.

        Args:
            point: an entry for each of them; any others have no effect.

        Raises:
            InputError: when the method is none of the space's, or a gate that matters is missing or neither 0 nor 1.
        """
        dimensions = self.dimensions(self._merge(point).template.method)
        if self._stacking is None:
            return dimensions
        known = self._stacking.active(point)
        return tuple(each for each in dimensions if each.parameter not in STACKING or each.name in known)

    def recipe(self, point: Mapping[str, float | str]) -> Recipe:
        """The recipe of a point that has an entry for every active dimension.

        Raises:
            InputError: when an entry is missing or out of bounds.
        """
        merge = self._merge(point)
        for dimension in self.active(point):
            value = point.get(dimension.name)
            if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
                raise InputError(f"{dimension.name} must be in [{dimension.low}, {dimension.high}], but got {value!r}")
        stack = self._stacking.stack(point) if self._stacking else None
        return merge.template.model_copy(update={"groups": tuple(self._groups(merge, point)), "stack": stack})

    def gradient(
        self, point: Mapping[str, float | str], slopes: Sequence[Mapping[tuple[str, str], float]]
    ) -> dict[str, float]:
        """The derivative of a function of the recipe with respect to the point, by the names of dimensions.

        Args:
            point: as `recipe` takes it.
            slopes: for each of `recipe(point).groups` the function's derivative with respect to its numbers, by
                (parameter, expert), the expert "" where the number is for all. What is absent counts as 0.

        Returns:
            An entry for each dimension of a number (of one parameter, expert and group of modules) that has a slope in
            any layer; so none for the stacking of layers.
        """
        method = self._merge(point).template.method
        found: dict[str, float] = {}
        for (_, modules, layer), given in zip(self._places(), slopes, strict=True):
            for key, curve in self._curves[method].items():
                slope = given.get((key.parameter, key.expert))
                if key.modules == modules and slope is not None:
                    for name, each in curve.slopes(point, layer).items():
                        found[name] = found.get(name, 0.0) + slope * each
        return found

    def constant(self, method: str, numbers: Numbers) -> tuple[Point, list[str]]:
        """The point of `method` nearest to the same `numbers` in every layer and module, each layer once, in order.

        Args:
            method: one of `methods`.
            numbers: values of the method's parameters (for each expert); the others take their defaults.

        Returns:
            The point, and one sentence for each number that had to be moved into the box.
        """
        specs = {spec.name: spec for spec in self._merges[method].parameters}
        point: Point = {METHOD: method} if len(self._merges) > 1 else {}
        moved: dict[str, None] = {}
        for key, curve in self._curves[method].items():
            wanted = numbers.get(key.parameter, float(specs[key.parameter].default))
            number = wanted[key.expert] if isinstance(wanted, Mapping) else wanted
            inside = curve.inside(number)
            if inside != number:
                moved[f"{key.parameter} {number:g} lies outside of its bounds, {inside:g} is taken"] = None
            point |= curve.flat(inside)
        for name in numbers:
            fixed = self._bounds.get(name)
            if isinstance(fixed, float):
                moved[f"{name} is fixed at {fixed:g}"] = None
        layers, sentences = self._stacking.constant() if self._stacking else ({}, [])
        return point | layers, [*moved, *sentences]

    def nearest(self, recipe: Recipe) -> tuple[Point, list[str]]:
        """The whole point whose recipe is nearest to a given one: by least squares over the layers.

        Groups of modules are compared as `evomerge.spaces.reading` says. Where the space has one number for several of
        them, their mean is what it goes by.

        Returns:
            The point, and one sentence for each thing that could not be kept.

        Raises:
            InputError: when the method is none of the space's, or the experts, by their names, are others.
        """
        if recipe.method not in self._merges:
            raise unknown_name("the recipe's method", recipe.method, self.methods)
        merge = self._merges[recipe.method]
        reader = RecipeReader(
            recipe, merge.template, merge.parameters, self._modules, self._num_layers, has_outside=self._has_outside
        )
        point: Point = {METHOD: recipe.method} if len(self._merges) > 1 else {}
        point |= nearest_numbers(self._curves[recipe.method].values(), reader)
        note_settings(self.fixed(recipe.method), reader)
        layers, sentences = self._stacking.nearest(recipe.stack) if self._stacking else ({}, [])
        if recipe.stack is not None and self._stacking is None:
            reader.note("the recipe's stack is left out, for the space has each layer once and in order")
        return point | layers, [*reader.notes, *sentences]

    def strength(self, method: str) -> ParameterSpec | None:
        """The parameter that says how much of an expert goes in: the first number with search bounds of its own.

        None: the method has none, so that it makes one candidate for each order of layers.
        """
        return next((spec for spec in self._merges[method].parameters if spec.kind == "number" and spec.search), None)

    def bounds(self, parameter: str) -> tuple[float, float] | float | None:
        """The bounds that hold for a parameter, its fixed number, or None where it stays at the method's default."""
        return self._bounds[parameter]

    def fixed(self, method: str) -> dict[str, float]:
        """The numbers of `method` that are not searched: as the user fixed them, else the options', else defaults."""
        merge = self._merges[method]
        return {
            spec.name: float(held if isinstance(held, float) else merge.template.options.get(spec.name, spec.default))
            for spec in merge.parameters
            if spec.kind == "number" and not self._is_searched(spec)
            for held in [self._bounds[spec.name]]
        }

    def conditions(self) -> list[str]:
        """In one sentence each, which dimensions have no effect at which points."""
        several = ["Only the numbers of the method that is chosen matter."] if len(self._merges) > 1 else []
        return [*several, *self._basis.conditions(), *(self._stacking.conditions() if self._stacking else ())]

    def _check_settings(self, config: SpaceConfig, merges: Sequence[Merge]) -> None:
        options = set(options_of(LAYER_SPACES.get(config.layers)))
        elsewhere = {key for name in LAYER_SPACES.names() for key in options_of(LAYER_SPACES.get(name))}
        numbers = {spec.name for merge in merges for spec in merge.parameters if spec.kind == "number"}
        for key in config.settings:
            if key in options | elsewhere | numbers:
                continue
            raise unknown_name("a key of space", key, {"layers", "modules"} | options | numbers)

    def _is_searched(self, spec: ParameterSpec) -> bool:
        """Whether it has bounds: the user's, or its own. Another method's are none of its business."""
        return isinstance(self._bounds.get(spec.name), tuple) and (spec.name in self._settings or bool(spec.search))

    def _merge(self, point: Mapping[str, float | str]) -> Merge:
        method = str(point.get(METHOD, self.methods[0]))
        if method not in self._merges:
            raise unknown_name("the method of a point", method, self.methods)
        return self._merges[method]

    def _curves_of(self, merge: Merge) -> dict[CurveKey, Curve]:
        """The curve of each number over depth, and of each outside of layers."""
        places = [*self._modules, OUTSIDE] if self._has_outside else self._modules
        return {
            key: Curve(key, SINGLE if modules == OUTSIDE else self._basis, *self._box(spec.name))
            for spec in merge.parameters
            if self._is_searched(spec)
            for expert in _owners(spec, merge.template)
            for modules in places
            for key in [CurveKey(spec.name, expert, modules)]
        }

    def _box(self, parameter: str) -> tuple[float, float]:
        bounds = self._bounds[parameter]
        assert isinstance(bounds, tuple)
        return bounds

    @property
    def _has_outside(self) -> bool:
        return len(self._basis.names) > 1

    def _places(self) -> Iterator[tuple[Layers, str, int]]:
        """Of each of a recipe's groups: its layers, the space's name for its modules, and one of its layers."""
        for start, stop in self._basis.runs():
            for modules in self._modules:
                yield (start, stop) if self._has_outside else "all", modules, start
        if self._has_outside:
            yield "outside", OUTSIDE, 0

    def _groups(self, merge: Merge, point: Mapping[str, float | str]) -> Iterator[Group]:
        for layers, modules, layer in self._places():
            yield Group(
                layers=layers,
                modules="all" if modules in ("other", OUTSIDE) else modules,  # the first fit counts: this is the rest
                parameters=self._numbers(merge, point, modules, layer),
            )

    def _numbers(
        self, merge: Merge, point: Mapping[str, float | str], modules: str, layer: int
    ) -> dict[str, float | dict[str, float]]:
        numbers: dict[str, float | dict[str, float]] = {}
        curves = self._curves[merge.template.method]
        for spec in merge.parameters:
            bounds = self._bounds.get(spec.name)
            if isinstance(bounds, float):
                numbers[spec.name] = bounds
            elif self._is_searched(spec):
                each = {
                    expert: curves[CurveKey(spec.name, expert, modules)].value(point, layer)
                    for expert in _owners(spec, merge.template)
                }
                numbers[spec.name] = each if spec.per_expert else each[""]
        return numbers


def _owners(spec: ParameterSpec, template: Recipe) -> tuple[str, ...]:
    return tuple(expert.name for expert in template.experts) if spec.per_expert else ("",)


def _bounds(spec: ParameterSpec, setting: object, merges: Sequence[Merge]) -> tuple[float, float] | float | None:
    """Bounds, a fixed number, or None: the parameter stays at its default."""
    if setting is None:
        searched = [other.search for merge in merges for other in merge.parameters if other.name == spec.name]
        pairs = [pair for pair in searched if pair]
        return (min(low for low, _ in pairs), max(high for _, high in pairs)) if pairs else None
    numbers = setting if isinstance(setting, list | tuple) else (setting, setting)
    if len(numbers) != 2 or not all(_is_number(number) for number in numbers):
        raise InputError(f"space.{spec.name} must be a number or bounds [low, high], but got {setting!r}")
    low, high = float(numbers[0]), float(numbers[1])
    if numbers is setting and not low < high:
        raise InputError(
            f"space.{spec.name} must be [low, high] with low < high, but got [{low:g}, {high:g}];"
            " a single number fixes it"
        )
    if not (spec.low <= low and high <= spec.high):
        found = f"[{low:g}, {high:g}]" if numbers is setting else f"{low:g}"
        raise InputError(
            f"space.{spec.name} must lie in the method's range [{spec.low:g}, {spec.high:g}], but got {found}"
        )
    return (low, high) if numbers is setting else low


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
