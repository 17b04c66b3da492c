"""How a number varies over depth: a linear basis, and the registry of layer spaces that make one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evomerge.errors import InputError
from evomerge.registry import Registry

LayerSpace = Callable[..., "Basis"]
LAYER_SPACES: Registry[LayerSpace] = Registry("layer space (space.layers)", "evomerge.spaces", "evomerge.spaces")


@dataclass(frozen=True)
class Basis:
    """Coefficients c [K] give layer l the value sum over k of matrix[l][k] * c[k].

    Attributes:
        names: K short names, unique.
        matrix: num_layers rows of K entries; every row's values lie in the bounds if every coefficient does.
        constant: the coefficients [K] with which every layer has the value 1.
    """

    names: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    constant: tuple[float, ...]

    def runs(self) -> list[tuple[int, int]]:
        """`[start, stop)` of the longest runs of layers with equal rows: these share every value."""
        starts = [0] + [layer for layer in range(1, len(self.matrix)) if self.matrix[layer] != self.matrix[layer - 1]]
        return list(zip(starts, [*starts[1:], len(self.matrix)], strict=True))


def layer_space(name: str) -> Callable[[LayerSpace], LayerSpace]:
    """Register a function `(num_layers, *, option=default, ...) -> Basis` as a value of `space.layers`.

    Its keyword-only integers become keys of the configuration's `space` section.
    """

    def register(function: LayerSpace) -> LayerSpace:
        LAYER_SPACES.add(name, function)
        return function

    return register


def options_of(function: LayerSpace) -> dict[str, int]:
    """The options that a layer space declares, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {option.name: option.default for option in parameters if option.kind is option.KEYWORD_ONLY}


def make_basis(name: str, num_layers: int, settings: Mapping[str, object]) -> Basis:
    """The basis of the layer space `name`, with the options that `settings` holds for it.

    Raises:
        InputError: for an unknown name, or an option that is not a whole number or is out of range.
    """
    function = LAYER_SPACES.get(name)
    options = {key: settings[key] for key in options_of(function) if key in settings}
    for key, value in options.items():
        if not isinstance(value, int | float) or value != int(value):
            raise InputError(f"space.{key} must be a whole number, but got {value!r}")
    return function(num_layers, **{key: int(value) for key, value in options.items()})  # type: ignore[call-overload]
