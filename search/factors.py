"""A model of how candidates differ on documents, from the candidates that a run has scored in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# In units of a value's variance; benchmarks/racing.py measures what they are worth.
_LEVEL = 0.12  # of a candidate's own level in a task, beyond what those before it had
_OWN = 0.5  # the share of a document's variance over candidates that is its own
_FLOOR = 0.08  # of a document on which all candidates so far agree
_PRIOR = 0.6  # of a document before candidates have shown it, worth as much as
_PRIOR_CANDIDATES = 2.0


class Posterior(NamedTuple):
    """What is known of a candidate's factors: their mean [r] and covariance [r, r]."""

    mean: Floats
    covariance: Floats


class FactorModel:
    """Values y = m + B'z + e of a candidate on M documents, with z ~ N(0, 1) in r dimensions and e ~ N(0, noise).

    The factors are those of the sample covariance over the C candidates seen in full, shrunk towards its diagonal
    (Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, J. Multivariate Analysis
    88, 2004, equation 14, with a fixed weight), and one level for each task, since a candidate that is worth
    estimating need not be as good as those. Conditioning a Gaussian on the documents seen is unaffected by a rule that
    stopped at them, which is what corrects the bias of a mean that was low enough to be stopped.

    Args:
        values: of the candidates, C x M, in units in which a document's variance is about 1; no NaN.
        task: of each document, its number from 0; M.

    Attributes:
        mean: of each document; M.
        loadings: r x M, with r = C + the number of tasks.
        noise: the variance of e.
    """

    def __init__(self, values: Floats, task: NDArray[np.intp]) -> None:
        count = len(values)
        self.mean: Floats = values.mean(axis=0)
        errors = values - self.mean
        spread = (float((errors**2).sum(axis=0).mean()) + _PRIOR * _PRIOR_CANDIDATES) / (count - 1 + _PRIOR_CANDIDATES)
        levels = np.sqrt(_LEVEL) * (task[None, :] == np.unique(task)[:, None])
        self.loadings: Floats = np.concatenate([np.sqrt((1 - _OWN) / max(count - 1, 1)) * errors, levels])
        self.noise = _OWN * spread + _FLOOR

    def posterior(self, places: NDArray[np.intp], values: Floats) -> Posterior:
        """The factors of a candidate that has `values` on the documents `places`."""
        seen = self.loadings[:, places]
        covariance = np.asarray(np.linalg.inv(np.eye(len(seen)) + seen @ seen.T / self.noise), dtype=np.float64)
        return Posterior(covariance @ (seen @ (values - self.mean[places])) / self.noise, covariance)

    def means(
        self, places: NDArray[np.intp], values: Floats, parts: Sequence[NDArray[np.intp]]
    ) -> tuple[Floats, Floats]:
        """A candidate's mean over each of `parts` and its standard error, from its `values` on `places`."""
        posterior = self.posterior(places, values)
        expected = self.mean + posterior.mean @ self.loadings
        expected[places] = values
        unseen = np.ones(len(expected))
        unseen[places] = 0.0
        means, errors = [], []
        for part in parts:
            total = self.loadings[:, part] @ unseen[part]
            variance = total @ posterior.covariance @ total + self.noise * unseen[part].sum()
            means.append(expected[part].mean())
            errors.append(np.sqrt(variance) / len(part))
        return np.array(means), np.array(errors)
