"""How strict each look at a candidate has to be, so that all looks together keep to one error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

_NODES = 401  # of the trapezoidal rule over 8 + c standard deviations; levels are right to 1e-4 of themselves
_REACH = 8.0


def pocock(share: float, error: float) -> float:
    """The error that may be spent until `share` (0 to 1) of the way: error * log(1 + (e - 1) * share).

    Lan and DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70 (1983), section 2; much of it is
    spent early, as the boundaries of Pocock (1977) do.
    """
    return error * math.log1p((math.e - 1) * share)


def nominal_levels(error: float, shares: Sequence[float]) -> tuple[float, ...]:
    """The level of a one-sided test at each look, such that P(any of them rejects | H0) is `error`.

    A mean over n of N documents drawn without replacement has the covariances of a Brownian motion in the information
    n / (1 - n/N): Cov(mean_n, mean_m) = s^2 (1/m - 1/N) for n <= m. The joint distribution over looks is therefore the
    canonical one of group sequential tests, and levels follow look by look from the recursion of Armitage, McPherson
    and Rowe, Repeated significance tests on accumulating data, J. R. Statist. Soc. A 132 (1969). They hold for any
    test whose p-value is uniform at each look (Jennison and Turnbull, Group Sequential Methods, 2000, section 3.8).

    Args:
        error: in (0, 1).
        shares: of all documents that are seen at each look, increasing, in (0, 1]. The error is spent in proportion
            to the last share below 1; with all documents seen there is nothing left to decide, and the level is 0.

    Returns:
        A level in [0, error] for each look.
    """
    ends = [share for share in shares if share < 1.0]
    levels: list[float] = []
    process = _Process()
    used = 0.0
    for share in ends:
        spend = pocock(share / ends[-1], error)
        bound = process.bound(share / (1 - share), spend - used)
        process.advance(share / (1 - share), bound)
        levels.append(float(ndtr(-bound)))
        used = spend
    return (*levels, *[0.0] * (len(shares) - len(ends)))


class _Process:
    """The density of a score process S(I) ~ N(0, I) that has not yet crossed a lower boundary, on a grid."""

    def __init__(self) -> None:
        self._information = 0.0
        self._grid: NDArray[np.float64] = np.zeros(1)
        self._mass: NDArray[np.float64] = np.ones(1)  # density times the rule's weights

    def bound(self, information: float, probability: float) -> float:
        """The c for which P(not crossed so far, S(information) < -c sqrt(information)) is `probability`."""
        spread = math.sqrt(information - self._information)

        def excess(c: float) -> float:
            return float(self._mass @ ndtr((-c * math.sqrt(information) - self._grid) / spread)) - probability

        return float(brentq(excess, float(-ndtri(probability)) - 8.0, float(-ndtri(probability)) + 1e-9))

    def advance(self, information: float, c: float) -> None:
        """Go on to `information` without those that fell below -c there."""
        spread, scale = math.sqrt(information - self._information), math.sqrt(information)
        grid = scale * np.linspace(-c, _REACH, _NODES)
        steps = (grid[:, None] - self._grid[None, :]) / spread
        density = np.exp(-0.5 * steps**2) @ self._mass / (spread * math.sqrt(2 * math.pi))
        weights = np.full(_NODES, grid[1] - grid[0])
        weights[[0, -1]] /= 2
        self._information, self._grid, self._mass = information, grid, density * weights
