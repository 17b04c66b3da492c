"""From a point in a bounded box to a Recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.engine.recipe import Group, Layers, ParameterSpec, Recipe
from evomerge.errors import InputError, unknown_name
from evomerge.spaces.basis import LAYER_SPACES, Dimension, make_basis, options_of
from evomerge.spaces.config import SpaceConfig

METHOD = "method"
Point = dict[str, float | str]
Numbers = Mapping[str, float | Mapping[str, float]]


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
        """The dimensions that matter when `method` is chosen."""
        return self._coefficients(method) + (self._stacking.dimensions() if self._stacking else ())

    def _coefficients(self, method: str) -> tuple[Dimension, ...]:
        merge = self._merges[method]
        return tuple(
            self._dimension(spec.name, expert, modules, column)
            for spec in merge.parameters
            if self._is_searched(spec)
            for expert in _owners(spec, merge.template)
            for modules, column in self._cells()
        )

    def active(self, point: Mapping[str, float | str]) -> tuple[Dimension, ...]:
        """The dimensions that the recipe of a whole point depends on, in their order."""
        return self.dimensions(str(point.get(METHOD, self.methods[0])))

    def recipe(self, point: Mapping[str, float | str]) -> Recipe:
        """The recipe of a point that has an entry for every dimension of its method.

        Raises:
            InputError: when an entry is missing or out of bounds.
        """
        merge = self._merges[str(point.get(METHOD, self.methods[0]))]
        for dimension in self.dimensions(merge.template.method):
            value = point.get(dimension.name)
            if not isinstance(value, int | float) or not dimension.low <= value <= dimension.high:
                raise InputError(f"{dimension.name} must be in [{dimension.low}, {dimension.high}], but got {value!r}")
        stack = self._stacking.stack(point) if self._stacking else None
        return merge.template.model_copy(update={"groups": tuple(self._groups(merge, point)), "stack": stack})

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
        for dimension in self._coefficients(method):
            wanted = numbers.get(dimension.parameter, float(specs[dimension.parameter].default))
            number = wanted[dimension.expert] if isinstance(wanted, Mapping) else wanted
            inside = min(max(number, dimension.low), dimension.high)
            if inside != number:
                moved[f"{dimension.parameter} {number:g} lies outside of its bounds, {inside:g} is taken"] = None
            point[dimension.name] = inside * self._constant(dimension)
        for name in numbers:
            fixed = self._bounds.get(name)
            if isinstance(fixed, float):
                moved[f"{name} is fixed at {fixed:g}"] = None
        layers, sentences = self._stacking.constant() if self._stacking else ({}, [])
        return point | layers, [*moved, *sentences]

    def strength(self, method: str) -> ParameterSpec | None:
        """The parameter that says how much of an expert goes in: the first number with search bounds of its own.

        None: the method has none, so that it makes one candidate for each order of layers.
        """
        return next((spec for spec in self._merges[method].parameters if spec.kind == "number" and spec.search), None)

    def bounds(self, parameter: str) -> tuple[float, float] | float | None:
        """The bounds that hold for a parameter, its fixed number, or None where it stays at the method's default."""
        return self._bounds[parameter]

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

    def _cells(self) -> Iterator[tuple[str, int]]:
        for modules in self._modules:
            for column in range(len(self._basis.names)):
                yield modules, column
        if self._has_outside:
            yield "", 0

    @property
    def _has_outside(self) -> bool:
        return len(self._basis.names) > 1

    def _constant(self, dimension: Dimension) -> float:
        return self._basis.constant[dimension.column] if dimension.modules else 1.0

    def _dimension(self, parameter: str, expert: str, modules: str, column: int) -> Dimension:
        bounds = self._bounds[parameter]
        assert isinstance(bounds, tuple)
        place = [modules if modules != "all" else "", self._basis.names[column]] if modules else ["outside layers"]
        owner = f"{parameter}[{expert}]" if expert else parameter
        name = " ".join(part for part in [owner, *place] if part)
        return Dimension(name, *bounds, parameter, expert, modules, column)

    def _groups(self, merge: Merge, point: Mapping[str, float | str]) -> Iterator[Group]:
        for start, stop in self._basis.runs():
            layers: Layers = (start, stop) if self._has_outside else "all"
            for modules in self._modules:
                yield Group(
                    layers=layers,
                    modules="all" if modules == "other" else modules,  # the first fit counts, so this is the rest
                    parameters=self._numbers(merge, point, modules, self._basis.matrix[start]),
                )
        if self._has_outside:
            yield Group(layers="outside", parameters=self._numbers(merge, point, "", (1.0,)))

    def _numbers(
        self, merge: Merge, point: Mapping[str, float | str], modules: str, row: Sequence[float]
    ) -> dict[str, float | dict[str, float]]:
        numbers: dict[str, float | dict[str, float]] = {}
        for spec in merge.parameters:
            bounds = self._bounds.get(spec.name)
            if isinstance(bounds, float):
                numbers[spec.name] = bounds
            elif self._is_searched(spec):
                each = {
                    expert: sum(
                        weight * float(point[self._dimension(spec.name, expert, modules, column).name])
                        for column, weight in enumerate(row)
                        if weight
                    )
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
