"""The unit cube that samplers of our own work in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from evomerge.errors import InputError

OPEN = 0.5  # a gate whose coordinate is at least this is 1


class UnitCube:
    """Maps points of a box to [0, 1]^d and back.

    A gate, which is 0 or 1, is open where its coordinate is at least 0.5. An open one is mapped back to 0.75, a closed
    one to 0.25, the middles of their halves.

    Args:
        sampler: who asks, for the error message.
        distributions: the box, d dimensions in order.

    Raises:
        InputError: when a dimension is a choice instead of a number or a gate.
    """

    def __init__(self, sampler: str, distributions: Mapping[str, BaseDistribution]) -> None:
        self._bounds: dict[str, tuple[float, float]] = {}
        self._gates: set[str] = set()
        for name, distribution in distributions.items():
            if isinstance(distribution, IntDistribution) and (distribution.low, distribution.high) == (0, 1):
                self._gates.add(name)
            elif not isinstance(distribution, FloatDistribution):
                raise InputError(
                    f"the sampler {sampler} needs numbers in every dimension, but {name!r} is a choice;"
                    " tpe, nsga2, nsga3 and niches take choices"
                )
            self._bounds[name] = (distribution.low, distribution.high)

    def __len__(self) -> int:
        return len(self._bounds)

    def point(self, coordinates: NDArray[np.float64]) -> dict[str, float]:
        """The point of the box at `coordinates` [d] in [0, 1]; gates are whole numbers."""
        return {
            name: int(at >= OPEN) if name in self._gates else min(max(low + (high - low) * float(at), low), high)
            for (name, (low, high)), at in zip(self._bounds.items(), coordinates, strict=True)
        }

    def coordinates(self, point: Mapping[str, float]) -> NDArray[np.float64]:
        """The coordinates [d] in [0, 1] of a point of the box."""
        return np.array(
            [
                (0.75 if point[name] else 0.25) if name in self._gates else (point[name] - low) / (high - low)
                for name, (low, high) in self._bounds.items()
            ]
        )
