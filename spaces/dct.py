"""A level, and a smooth curve over depth around it: the first cosines of a discrete cosine transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.errors import InputError
from evomerge.spaces.basis import Basis, layer_space

STEEPEST = 4.0
"""The first cosine's bound, in log odds: around a level in the middle it goes from 2 % of the range to 98 %."""


@layer_space("dct")
def dct(num_layers: int, *, order: int = 4) -> Basis:
    """A level and `order` - 1 cosines over depth, which shift its log odds inside of the bounds.

    Every curve stays in the bounds, and two points give different curves unless their level lies on a bound: there the
    curve is the bound itself, whatever its shape. The bounds of the cosines fall with their frequency, so that curves
    are about equally smooth, and lie as far from the bounds, at every order.

    Args:
        num_layers: of the model.
        order: numbers of a curve: its level, and its cosines with 1, 2, ... half-waves over the depth.

    Raises:
        InputError: unless 1 <= order <= num_layers.
    """
    if not 1 <= order <= num_layers:
        raise InputError(f"space.order must be from 1 to the number of layers ({num_layers}), but got {order}")
    return CosineBasis(
        names=("level", *(f"cos {k}" for k in range(1, order))) if order > 1 else ("",),
        matrix=tuple(
            tuple(math.cos(math.pi * k * (layer + 0.5) / num_layers) for k in range(order))
            for layer in range(num_layers)
        ),
        constant=(1.0,) + (0.0,) * (order - 1),
    )


@dataclass(frozen=True)
class CosineBasis(Basis):
    """A level v0 in the parameter's bounds, and shape coefficients c_k that shift its log odds.

    With u0 in [0, 1] the place of v0 between the bounds, layer l lies at u0 e^s / (1 - u0 + u0 e^s), where
    s = sum over k >= 1 of matrix[l][k] * c_k, and |c_k| <= `STEEPEST` / k.
    """

    def bounds(self, column: int, low: float, high: float) -> tuple[float, float]:
        """Those of the parameter for the level, and the same on either side of 0 for a cosine, in log odds."""
        return (-STEEPEST / column, STEEPEST / column) if column else (low, high)

    def flat(self, value: float) -> tuple[float, ...]:
        """The level alone."""
        return (value,) + (0.0,) * (len(self.names) - 1)

    def value(self, layer: int, coefficients: Sequence[float], low: float, high: float) -> float:
        """The value of a layer: exactly the level where the shape is 0 or the level on a bound."""
        level, below, above = coefficients[0], coefficients[0] - low, high - coefficients[0]
        shift = self._shift(layer, coefficients)
        # u - u0 = u0 (1 - u0) (e^s - 1) / (1 - u0 + u0 e^s), in units of the range
        return level + below * above * math.expm1(shift) / (above + below * math.exp(shift))

    def slopes(self, layer: int, coefficients: Sequence[float], low: float, high: float) -> tuple[float, ...]:
        """The derivatives [K] of `value` with respect to each coefficient."""
        place, shift = (coefficients[0] - low) / (high - low), self._shift(layer, coefficients)
        by_level = math.exp(shift) / (1 - place + place * math.exp(shift)) ** 2  # du/du0
        by_shift = (high - low) * place * (1 - place) * by_level  # du/ds = u (1 - u)
        return (by_level, *(by_shift * each for each in self.matrix[layer][1:]))

    def fit(self, values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
        """The curve nearest to the values of all layers (least squares); exact where they are one of its curves."""
        from evomerge.spaces.fitting import fit_curve

        return fit_curve(self, values, low, high)

    def depth(self, column: int) -> float | None:
        """None: levels and cosines lie at no place."""
        return None

    def conditions(self) -> tuple[str, ...]:
        """Levels on a bound."""
        return ("Cosines have no effect where their level lies exactly on a bound.",) if len(self.names) > 1 else ()

    def _shift(self, layer: int, coefficients: Sequence[float]) -> float:
        return sum(weight * each for weight, each in zip(self.matrix[layer][1:], coefficients[1:], strict=True))
