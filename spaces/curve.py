"""One number of a merge method, for one expert and one group of modules: a curve over depth, or a single value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from evomerge.spaces.basis import Basis, Dimension

OUTSIDE = ""
"""In the place of a group of modules: what lies in no layer."""


class CurveKey(NamedTuple):
    """Whose number a curve is: the expert is "" for all, the modules `OUTSIDE` for what lies in no layer."""

    parameter: str
    expert: str
    modules: str

    @property
    def name(self) -> str:
        """What it is called: "weight[math] attention"."""
        place = {"all": "", OUTSIDE: " outside layers"}.get(self.modules, f" {self.modules}")
        return self.owner + place

    @property
    def owner(self) -> str:
        """The same in all modules: "weight[math]"."""
        return f"{self.parameter}[{self.expert}]" if self.expert else self.parameter


@dataclass(frozen=True)
class Curve:
    """The dimensions that make it, one for each function of its basis.

    Attributes:
        key: whose number it is.
        basis: how it varies over depth; outside of layers that of a single layer.
        low, high: bounds of its values.
    """

    key: CurveKey
    basis: Basis
    low: float
    high: float

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """In the order of the basis."""
        return tuple(
            Dimension(
                f"{self.key.name} {name}".rstrip(),
                *self.basis.bounds(column, self.low, self.high),
                *self.key,
                column,
                depth=self.basis.depth(column),
            )
            for column, name in enumerate(self.basis.names)
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Those of the dimensions."""
        return tuple(each.name for each in self.dimensions)

    def point(self, coefficients: Sequence[float]) -> dict[str, float]:
        """Coefficients [K] by the names of their dimensions."""
        return dict(zip(self.names, coefficients, strict=True))

    def flat(self, value: float) -> dict[str, float]:
        """The point with the same value in every layer."""
        return self.point(self.basis.flat(value))

    def value(self, point: Mapping[str, float | str], layer: int) -> float:
        """The number of a layer."""
        return self.basis.value(layer, self._coefficients(point), self.low, self.high)

    def slopes(self, point: Mapping[str, float | str], layer: int) -> dict[str, float]:
        """The derivatives of a layer's number with respect to the dimensions."""
        return self.point(self.basis.slopes(layer, self._coefficients(point), self.low, self.high))

    def fit(self, values: Sequence[float]) -> dict[str, float]:
        """The point in the box whose numbers are nearest to those of all layers; of equal ones exact."""
        inside = [self.inside(value) for value in values]
        if min(inside) == max(inside):
            return self.flat(inside[0])
        return self.point(self.basis.fit(values, self.low, self.high))

    def inside(self, value: float) -> float:
        """The number in the bounds that is nearest to `value`."""
        return min(max(value, self.low), self.high)

    def _coefficients(self, point: Mapping[str, float | str]) -> list[float]:
        return [float(point[name]) for name in self.names]
