"""How a number varies over depth: a linear basis, and the registry of layer spaces that make one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.errors import InputError
from evomerge.registry import Registry

if TYPE_CHECKING:
    from evomerge.spaces.stack import Stacking

LayerSpace = Callable[..., "Basis"]
LAYER_SPACES: Registry[LayerSpace] = Registry("layer space (space.layers)", "evomerge.spaces", "evomerge.spaces")


@dataclass(frozen=True)
class Dimension:
    """One number that the search chooses, in `[low, high]`.

    Attributes:
        name: unique, such as `weight[math] attention layers 0-5`.
        parameter, expert: which of the method's parameters it is a coefficient of, and whose ("": all experts').
        modules: the group of modules; "" where embeddings, final norm and head have numbers of their own.
        column: the basis function over depth; of the numbers that stack layers the slot.
        is_gate: whether it is 0 or 1.
        depth: the centre of its basis function, from 0 (before the first layer) to 1 (behind the last); None for
            numbers that lie at no place: those for all layers, levels and cosines, outside of layers, stacking.
    """

    name: str
    low: float
    high: float
    parameter: str
    expert: str
    modules: str
    column: int
    is_gate: bool = False
    depth: float | None = None


@dataclass(frozen=True)
class Basis:
    """Coefficients c [K] give layer l the value sum over k of matrix[l][k] * c[k]; each has the parameter's bounds.

    A basis of another form derives from it and overrides what says how coefficients make values.

    Attributes:
        names: K short names, unique.
        matrix: num_layers rows of K entries; every row's values lie in the bounds if every coefficient does.
        constant: the coefficients [K] with which every layer has the value 1.
        stacking: how further numbers choose and order the layers; None: each layer once, in order.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    constant: tuple[float, ...]
    stacking: Stacking | None = None

    def bounds(self, column: int, low: float, high: float) -> tuple[float, float]:
        """The bounds of a coefficient, where the parameter's are `[low, high]`."""
        return low, high

    def flat(self, value: float) -> tuple[float, ...]:
        """The coefficients [K] with which every layer has `value`."""
        return tuple(value * each for each in self.constant)

    def value(self, layer: int, coefficients: Sequence[float], low: float, high: float) -> float:
        """The value of a layer, in `[low, high]` for coefficients [K] in their bounds; of flat ones exact."""
        row = self.matrix[layer]
        first = next(column for column, weight in enumerate(row) if weight * self.constant[column])
        level = coefficients[first] / self.constant[first]
        value = level + sum(
            weight * (coefficient - level * constant)
            for weight, coefficient, constant in zip(row, coefficients, self.constant, strict=True)
            if weight
        )
        return min(max(value, low), high)  # against rounding: a method refuses a density of 1 + 1e-16

    def slopes(self, layer: int, coefficients: Sequence[float], low: float, high: float) -> tuple[float, ...]:
        """The derivatives [K] of `value` with respect to each coefficient."""
        return self.matrix[layer]

    def fit(self, values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
        """The coefficients [K], in their bounds, whose values are nearest to those of all layers (least squares)."""
        from evomerge.spaces.fitting import fit_linear

        return fit_linear(self.matrix, values, low, high)

    def depth(self, column: int) -> float | None:
        """The centre of mass of a basis function over depth, in (0, 1); None where it is the same in all layers."""
        masses = [abs(row[column]) for row in self.matrix]
        if max(masses) == min(masses):
            return None
        places = (mass * (layer + 0.5) / len(masses) for layer, mass in enumerate(masses))
        return sum(places) / sum(masses)

    def conditions(self) -> tuple[str, ...]:
        """In one sentence each, where some coefficients have no effect."""
        return ()

    def runs(self) -> list[tuple[int, int]]:
        """`[start, stop)` of the longest runs of layers with equal rows: these share every value."""
        starts = [0] + [layer for layer in range(1, len(self.matrix)) if self.matrix[layer] != self.matrix[layer - 1]]
        return list(zip(starts, [*starts[1:], len(self.matrix)], strict=True))


def layer_space(name: str) -> Callable[[LayerSpace], LayerSpace]:
    """Register a function `(num_layers, *, option=default, ...) -> Basis` as a value of `space.layers`.

    Its keyword-only parameters become keys of the configuration's `space` section. Where the default is a whole
    number, the value is one; the function itself checks the others.
    """

    def register(function: LayerSpace) -> LayerSpace:
        LAYER_SPACES.add(name, function)
        return function

    return register


def options_of(function: LayerSpace) -> dict[str, object]:
    """The options that a layer space declares, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {option.name: option.default for option in parameters if option.kind is option.KEYWORD_ONLY}


def make_basis(name: str, num_layers: int, settings: Mapping[str, object]) -> Basis:
    """The basis of the layer space `name`, with the options that `settings` holds for it.

    Raises:
        InputError: for an unknown name, or an option that is not a whole number or is out of range.
    """
    function = LAYER_SPACES.get(name)
    options = {
        key: whole_number(key, settings[key]) if isinstance(default, int) else settings[key]
        for key, default in options_of(function).items()
        if key in settings
    }
    return function(num_layers, **options)


def whole_number(option: str, value: object) -> int:
    """The value as an integer. Raises InputError in the name of `option` when it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not float(value).is_integer():
        raise InputError(f"space.{option} must be a whole number, but got {value!r}")
    return int(value)
