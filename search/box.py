"""The unit cube that samplers of our own work in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution

from evomerge.errors import InputError


class UnitCube:
    """Maps points of a box to [0, 1]^d and back.

    Args:
        sampler: who asks, for the error message.
        distributions: the box, d dimensions in order.

    Raises:
        InputError: when a dimension is a choice instead of a number.
    """

    def __init__(self, sampler: str, distributions: Mapping[str, BaseDistribution]) -> None:
        self._bounds: dict[str, tuple[float, float]] = {}
        for name, distribution in distributions.items():
            if not isinstance(distribution, FloatDistribution):
                raise InputError(
                    f"the sampler {sampler} needs numbers in every dimension, but {name!r} is a choice;"
                    " tpe takes choices"
                )
            self._bounds[name] = (distribution.low, distribution.high)

    def __len__(self) -> int:
        return len(self._bounds)

    def point(self, coordinates: NDArray[np.float64]) -> dict[str, float]:
        """The point of the box at `coordinates` [d] in [0, 1]."""
        return {
            name: min(max(low + (high - low) * float(at), low), high)
            for (name, (low, high)), at in zip(self._bounds.items(), coordinates, strict=True)
        }

    def coordinates(self, point: Mapping[str, float]) -> NDArray[np.float64]:
        """The coordinates [d] in [0, 1] of a point of the box."""
        return np.array([(point[name] - low) / (high - low) for name, (low, high) in self._bounds.items()])
