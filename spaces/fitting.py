"""Least squares in a box: the coefficients whose curve over depth is nearest to a given one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, lsq_linear

if TYPE_CHECKING:
    from evomerge.spaces.basis import Basis

Floats = NDArray[np.float64]

EDGE = 1e-9
"""How near to a bound, in units of the range, log odds are taken of."""
CLOSE = 1e-9
"""What counts as the curve itself, in units of the range."""


def fit_linear(
    matrix: Sequence[Sequence[float]], values: Sequence[float], low: float, high: float
) -> tuple[float, ...]:
    """The c [K] in `[low, high]` that minimizes |matrix c - values|^2, exact where the values allow it.

    Args:
        matrix: num_layers rows of K entries, of full column rank.
        values: num_layers.
        low, high: of every coefficient.
    """
    rows, wanted = np.asarray(matrix, dtype=float), np.asarray(values, dtype=float)
    free = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    for row, value in zip(rows, wanted, strict=True):  # undo the rounding where a layer shows a coefficient as it is
        column = int(np.argmax(np.abs(row)))
        if np.count_nonzero(row) == 1 and abs(row[column] * free[column] - value) <= CLOSE * (high - low):
            free[column] = value / row[column]
    slack = 1e-12 * max(1.0, abs(low), abs(high))
    if not (np.all(free >= low - slack) and np.all(free <= high + slack)):
        free = lsq_linear(rows, wanted, bounds=(low, high), method="bvls").x
    return tuple(float(each) for each in np.clip(free, low, high))


def fit_curve(basis: Basis, values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """The same for a curve of log odds: the coefficients [K] of `basis`, in their bounds.

    The log odds are linear in the coefficients, which gives the solution where `values` are one of the basis's curves,
    and elsewhere the start of a descent on the squared distance itself, to the nearest curve around it.

    Args:
        basis: whose column 0 is the level.
        values: num_layers.
        low, high: of the parameter.
    """
    wanted = np.asarray(values, dtype=float)
    inside = np.clip(wanted, low, high)
    if inside.min() == inside.max():
        return basis.flat(float(inside[0]))
    box = np.array([basis.bounds(column, low, high) for column in range(len(basis.names))])
    places = np.clip((inside - low) / (high - low), EDGE, 1 - EDGE)
    odds = np.linalg.lstsq(np.asarray(basis.matrix), np.log(places / (1 - places)), rcond=None)[0]
    level = low + (high - low) / (1 + np.exp(-odds[0]))
    start = np.clip([level, *odds[1:]], *box.T)

    def errors(point: Floats) -> Floats:
        values = [basis.value(layer, point.tolist(), low, high) for layer in range(len(wanted))]
        return np.asarray(values - wanted)

    def slopes(point: Floats) -> Floats:
        return np.array([basis.slopes(layer, point.tolist(), low, high) for layer in range(len(wanted))])

    if np.abs(errors(start)).max() <= CLOSE * (high - low):
        return tuple(map(float, start))
    found = least_squares(errors, start, slopes, bounds=box.T, x_scale=box[:, 1] - box[:, 0]).x
    return tuple(map(float, np.clip(found, *box.T)))
