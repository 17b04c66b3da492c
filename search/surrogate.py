"""A Gaussian process over candidates: what is known of the objective at points not scored yet, and of those scored.

(Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

Floats = NDArray[np.float64]

# Of the logarithms of length scales (in units of features, one of which spans the box from 0 to 1), of the standard
# deviation of the objective and of the roughness (in units of the values' own): what is likely before any is seen.
LENGTH, LENGTH_SPREAD = np.log(1.2), 0.7
SIGNAL_SPREAD = 0.5
ROUGH, ROUGH_SPREAD = np.log(0.08), 0.7
STEPS = 30


class Posterior(NamedTuple):
    """Mean and standard deviation of the smooth objective at points."""

    mean: Floats
    sd: Floats


class Surrogate:
    """A Gaussian process with the Matern kernel (nu 5/2), a length scale for each level of features, and known noise.

    An observation is the smooth objective, plus roughness (what two candidates next to each other differ by, whose
    variance is learnt), plus the error of its estimate, whose variance is given. Hyperparameters are those of highest
    posterior density under broad priors.

    Args:
        features: of N candidates, N x F.
        level: of each feature, from 0; features of a level share a length scale.
        values: N objectives.
        errors: N standard errors of the values as estimates.
        like: takes hyperparameters and units from another one, of fewer observations; None: they are fitted.

    Attributes:
        hyper: the logarithms of the length scales by level, of the signal's standard deviation and of the roughness.
    """

    def __init__(
        self,
        features: Floats,
        level: NDArray[np.intp],
        values: Floats,
        errors: Floats,
        like: Surrogate | None = None,
    ) -> None:
        self._features, self._level = features, level
        self._center: float = like._center if like else float(np.median(values))
        self._unit: float = like._unit if like else float(values.std()) or 1.0
        self._values = (values - self._center) / self._unit
        self._errors = errors / self._unit
        self._levels = int(level.max()) + 1
        self._squares = _squares(features, features, level, self._levels)
        self.hyper: Floats = like.hyper if like else self._fitted()
        self._settle()

    def posterior(self, features: Floats) -> Posterior:
        """Of the smooth objective at points with these features, n x F."""
        cross = self._cross(features)
        mean = self._level_mean + cross @ self._weights
        half = solve_triangular(self._factor[0], cross.T, lower=True, check_finite=False)
        variance = np.exp(2 * self.hyper[-2]) - np.einsum("ij,ij->j", half, half)
        return Posterior(self._center + self._unit * mean, self._unit * np.sqrt(np.maximum(variance, 1e-12)))

    def mean(self, features: Floats) -> Floats:
        """The posterior's mean alone, which is cheaper."""
        return np.asarray(self._center + self._unit * (self._level_mean + self._cross(features) @ self._weights))

    def with_pending(self, features: Floats) -> Surrogate:
        """The same after candidates under way have come out as expected (kriging believer, Ginsbourger et al. 2010).

        Args:
            features: of the candidates, n x F.
        """
        if not len(features):
            return self
        together = np.concatenate([self._features, features])
        values = np.concatenate([self._center + self._unit * self._values, self.mean(features)])
        errors = np.concatenate([self._unit * self._errors, np.zeros(len(features))])
        return Surrogate(together, self._level, values, errors, like=self)

    @property
    def roughness(self) -> float:
        """The standard deviation, in units of values, by which neighbouring candidates differ for no smooth reason."""
        return float(self._unit * np.exp(self.hyper[-1]))

    def _cross(self, features: Floats) -> Floats:
        scaled = np.exp(-self.hyper[self._level])
        distance = np.sqrt(np.maximum(_distances(features * scaled, self._features * scaled), 0.0))
        return np.asarray(_matern(distance) * np.exp(2 * self.hyper[-2]))

    def _settle(self) -> None:
        """Factorize the covariance, and take the constant mean of least squares."""
        covariance = self._covariance(self.hyper)[0]
        self._factor = cho_factor(covariance, lower=True, check_finite=False)
        ones = cho_solve(self._factor, np.ones(len(self._values)), check_finite=False)
        self._level_mean = float(ones @ self._values / ones.sum())
        self._weights = cho_solve(self._factor, self._values - self._level_mean, check_finite=False)

    def _covariance(self, hyper: Floats) -> tuple[Floats, Floats, Floats]:
        """The covariance, the scaled distances and the kernel without noise."""
        distance = np.sqrt(np.maximum(np.tensordot(np.exp(-2 * hyper[: self._levels]), self._squares, axes=1), 0.0))
        kernel = _matern(distance) * np.exp(2 * hyper[-2])
        noise = np.exp(2 * hyper[-1]) + self._errors**2 + 1e-8
        return kernel + np.diag(noise), distance, kernel

    def _fitted(self) -> Floats:
        start = np.concatenate([np.full(self._levels, LENGTH), [0.0, ROUGH]])
        bounds = [(LENGTH - 2.5, LENGTH + 3.0)] * self._levels + [(-2.0, 2.0), (ROUGH - 3.0, 0.5)]
        found = minimize(
            self._loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS, "maxfun": STEPS}
        )
        return np.asarray(found.x)

    def _loss(self, hyper: Floats) -> tuple[float, Floats]:
        """The negative logarithm of the hyperparameters' posterior density, and its gradient (equation 5.9)."""
        covariance, distance, kernel = self._covariance(hyper)
        try:
            factor = cho_factor(covariance, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(hyper)
        inverse = cho_solve(factor, np.eye(len(self._values)), check_finite=False)
        ones = inverse.sum(axis=1)
        errors = self._values - ones @ self._values / ones.sum()
        weights = inverse @ errors
        outer = inverse - np.outer(weights, weights)
        # d k / d log l = s2 5/3 (1 + sqrt5 r) exp(-sqrt5 r) * (difference / l)^2
        slope = np.exp(2 * hyper[-2]) * (5 / 3) * (1 + np.sqrt(5) * distance) * np.exp(-np.sqrt(5) * distance)
        by_level = np.einsum("ij,lij->l", outer * slope, self._squares, optimize=True)
        gradient = np.concatenate(
            [
                0.5 * by_level * np.exp(-2 * hyper[: self._levels]),
                [float((outer * kernel).sum()), float(np.exp(2 * hyper[-1]) * np.trace(outer))],
            ]
        )
        value = 0.5 * errors @ weights + np.log(np.diag(factor[0])).sum()
        centers = np.concatenate([np.full(self._levels, LENGTH), [0.0, ROUGH]])
        spreads = np.concatenate([np.full(self._levels, LENGTH_SPREAD), [SIGNAL_SPREAD, ROUGH_SPREAD]])
        prior = (hyper - centers) / spreads
        return float(value + 0.5 * prior @ prior), gradient + prior / spreads


def _matern(distance: Floats) -> Floats:
    scaled = np.sqrt(5) * distance
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))


def _distances(first: Floats, second: Floats) -> Floats:
    """Squared Euclidean distances of rows, [n, m]."""
    return np.asarray((first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T)


def _squares(first: Floats, second: Floats, level: NDArray[np.intp], levels: int) -> Floats:
    """For each level the squared distances over its features, [levels, n, m]."""
    return np.array([_distances(first[:, level == each], second[:, level == each]) for each in range(levels)])
