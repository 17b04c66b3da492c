"""Least squares in a box: the coefficients whose curve over depth is nearest to a given one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import lsq_linear


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
    slack = 1e-12 * max(1.0, abs(low), abs(high))
    if not (np.all(free >= low - slack) and np.all(free <= high + slack)):
        free = lsq_linear(rows, wanted, bounds=(low, high), method="bvls").x
    return tuple(float(each) for each in np.clip(free, low, high))
