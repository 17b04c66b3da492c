"""How points of a space differ: by what they do to all layers, to groups of modules, smoothly over depth, or in detail.

A model of the objective that measures distances in these features can learn that a common change of all layers matters
more than the same change in one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.spaces import Dimension

Floats = NDArray[np.float64]

SMOOTH = 4  # cosines over depth that count as smooth, the constant included


class Features:
    """A linear map from unit coordinates [D] to features [F], each of one level.

    The numbers of one parameter and expert make a group. Its orthonormal directions, divided by the root of its size
    (so that the same change of all its numbers moves one feature by that change), are ordered from the common to the
    particular: the mean; the differences between module groups; cosines over depth within a module group; and the rest.
    Groups of a single number have its mean alone.

    Args:
        dimensions: D dimensions of one method.

    Attributes:
        matrix: F x D.
        level: of each feature: a number below `levels`. Each group's mean is a level of its own, first of all; then
            come those of module groups, of depth, and the rest, each shared by all groups.
        levels: how many there are.
        groups: for each dimension the number of its group.
    """

    def __init__(self, dimensions: Sequence[Dimension]) -> None:
        owners = [(each.parameter, each.expert) for each in dimensions]
        names = list(dict.fromkeys(owners))
        self.groups = np.array([names.index(owner) for owner in owners])
        rows: list[Floats] = []
        levels: list[int] = []
        for group in range(len(names)):
            places = [place for place, owner in enumerate(owners) if owner == names[group]]
            for kind, block in enumerate(_directions([dimensions[place] for place in places])):
                for direction in block:
                    row = np.zeros(len(dimensions))
                    row[places] = direction / np.sqrt(len(places))
                    rows.append(row)
                    levels.append(group if kind == 0 else len(names) + kind - 1)
        used = sorted(set(levels))
        self.matrix: Floats = np.array(rows)
        self.level = np.array([used.index(level) for level in levels])
        self.levels = len(used)

    def __call__(self, points: Floats) -> Floats:
        """Of points [n, D] in unit coordinates: [n, F]."""
        return np.asarray(points @ self.matrix.T)


def _directions(dimensions: Sequence[Dimension]) -> list[Floats]:
    """Orthonormal directions of one group: mean, modules, smooth over depth, rest; each [any, len(dimensions)]."""
    size = len(dimensions)
    modules = list(dict.fromkeys(each.modules for each in dimensions))
    level = np.array([float(not is_shape(each)) for each in dimensions])
    mean = level[None]
    of_modules = np.array([[float(each.modules == name) for each in dimensions] for name in modules]) * level
    smooth = np.concatenate([np.diag(1 - level), *(_cosines(dimensions, name) for name in modules)])
    found: list[Floats] = []
    basis = np.zeros((0, size))
    for wanted in (mean, of_modules, smooth, np.eye(size)):
        fresh = _independent(wanted, basis)
        basis = np.concatenate([basis, fresh])
        found.append(fresh)
    return found


def is_shape(dimension: Dimension) -> bool:
    """Whether it bends a curve over depth and has no effect on its level."""
    return bool(dimension.modules) and dimension.depth is None and dimension.column > 0


def _cosines(dimensions: Sequence[Dimension], modules: str) -> Floats:
    """cos(pi k depth) for k below `SMOOTH`, over the numbers of one module group that lie at a depth."""
    there = np.array([each.modules == modules and each.depth is not None for each in dimensions])
    depth = np.array([each.depth or 0.0 for each in dimensions])
    return np.array([np.where(there, np.cos(np.pi * k * depth), 0.0) for k in range(SMOOTH)])


def _independent(wanted: Floats, basis: Floats) -> Floats:
    """An orthonormal basis of what the rows of `wanted` span beyond the rows of `basis`, which are orthonormal."""
    left = wanted - wanted @ basis.T @ basis
    _, singular, rows = np.linalg.svd(left, full_matrices=False)
    return np.asarray(rows[singular > 1e-9 * max(1.0, float(singular.max(initial=0.0)))])
