"""The stages of a search from coarse to fine: along which directions each of them moves the numbers of a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from evomerge.search.features import SMOOTH, Floats, is_shape
from evomerge.spaces import Dimension


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: as the log says it.
        directions: m x D in unit coordinates, each with entries of at most 1.
        origin: where all of the stage's numbers are 0, D.
        is_global: whether it looks for good points anywhere in the span of its directions, and not only near good ones.
    """

    name: str
    directions: Floats
    origin: Floats
    is_global: bool = False

    @property
    def size(self) -> int:
        """How many numbers it searches."""
        return len(self.directions)


BLOCKS = 3


@lru_cache(maxsize=16)
def stages(dimensions: tuple[Dimension, ...]) -> tuple[Stage, ...]:
    """The stages for the dimensions of one method, each of more numbers than the one before; the last has them all.

    One number for each parameter and expert; one for each block of layers and module group; cosines over depth for each
    module group; every number on its own. A stage that is not coarser than the next one is left out.
    """
    size = len(dimensions)
    origin = np.array([0.5 * is_shape(each) for each in dimensions])
    level = np.array([not is_shape(each) for each in dimensions])
    common = [(each.parameter, each.expert) for each in dimensions]
    in_modules = [(*owner, each.modules) for owner, each in zip(common, dimensions, strict=True)]
    in_blocks = [(*owner, _block(each)) for owner, each in zip(in_modules, dimensions, strict=True)]
    found = [
        Stage("one number per expert", _indicators(common, level), origin, is_global=True),
        Stage("module groups", _indicators(in_modules, level), origin),
        Stage("blocks of layers", _indicators(in_blocks, level), origin),
        Stage("cosines over depth", _cosines(dimensions, in_modules), origin),
    ]
    kept: list[Stage] = []
    for stage in found:
        if stage.size < size and all(stage.size > other.size for other in kept):
            kept.append(stage)
    return (*kept, Stage("every number", np.eye(size), np.zeros(size), is_global=not kept))


def _block(dimension: Dimension) -> int:
    return -1 if dimension.depth is None else min(int(dimension.depth * BLOCKS), BLOCKS - 1)


def _indicators(labels: Sequence[tuple[object, ...]], level: NDArray[np.bool_]) -> Floats:
    """A row for each label: 1 where a level has it."""
    rows = np.array([[float(label == each) for each in labels] for label in dict.fromkeys(labels)]) * level
    return rows[rows.any(axis=1)]


def _cosines(dimensions: Sequence[Dimension], labels: Sequence[tuple[object, ...]]) -> Floats:
    """The independent ones of `SMOOTH` cosines for each label."""
    depth = np.array([np.nan if each.depth is None else each.depth for each in dimensions])
    rows: list[NDArray[np.float64]] = []
    for label in dict.fromkeys(labels):
        there = np.array([each == label for each in labels])
        placed = there & ~np.isnan(depth)
        rows += [np.where(there & ~placed, 1.0, 0.0)] if (there & ~placed).any() else []
        for k in range(min(SMOOTH, int(placed.sum()))):
            rows.append(np.where(placed, np.cos(np.pi * k * np.nan_to_num(depth)), 0.0))
    return np.array(rows)
