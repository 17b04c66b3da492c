"""Spherical geometry of vectors that are known by their inner products: coefficients, all in float64. No torch here.

Every function takes arrays with any leading axes, one problem for each place in them: a Gram matrix is [..., n, n].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.engine.plan import Array

COLLINEAR = 1e-4
"""Two vectors whose angle's sine is smaller are taken as parallel or opposite: no arc between them is defined."""

CANCELLED = 1e-4
"""Directions whose weighted sum is shorter than this, of weights that sum to 1 in absolute value, have no mean."""

SINGULAR = 1e-6
STEPS = 100
STILL = 1e-12


def cosines(gram: Array) -> tuple[Array, Array]:
    """Norms [..., n] and the cosines between all pairs [..., n, n]; a zero vector's are 0, also its own."""
    norms = np.sqrt(np.maximum(np.diagonal(gram, axis1=-2, axis2=-1), 0.0))
    scale = _inverse(norms)
    return norms, np.clip(gram * scale[..., :, None] * scale[..., None, :], -1.0, 1.0)


def arc(gram: Array, t: float) -> tuple[Array, Array]:
    """Coefficients of slerp from vector 0 to vector 1, not normalized; plain (1 - t, t) where no arc is defined.

    Args:
        gram: [..., 2, 2].
        t: how far along the arc.

    Returns:
        Two arrays [...].
    """
    norms, cosine = cosines(gram)
    theta = np.arccos(cosine[..., 0, 1])
    defined = (np.sin(theta) > COLLINEAR) & (norms.min(axis=-1) > 0.0)
    sine = np.where(defined, np.sin(theta), 1.0)
    first, second = np.sin((1.0 - t) * theta) / sine, np.sin(t * theta) / sine
    return np.where(defined, first, 1.0 - t), np.where(defined, second, t)


def mean_direction(gram: Array, weights: Sequence[float]) -> Array:
    """Coefficients of sum_i w_i norm_i times the unit vector along sum_i w_i unit_i: [n].

    Where the directions cancel, it is the plain sum_i w_i v_i. Args: gram: [n, n]; weights: n numbers.
    """
    w = np.asarray(weights, dtype=np.float64)
    norms, cosine = cosines(gram)
    length = np.sqrt(max(float(w @ cosine @ w), 0.0))
    if length <= CANCELLED * float(np.abs(w).sum()):
        return w
    return np.asarray(float(w @ norms) / length * w * _inverse(norms))


def spherical_mean(gram: Array, weights: Sequence[float]) -> Array:
    """Coefficients of the weighted Karcher mean of the directions, times sum_i w_i norm_i: [n].

    The mean is a linear combination of the directions, so the fixed-point iteration works on its coefficients.
    Vectors that are zero have no direction; one opposite to the mean exerts no pull.

    Args:
        gram: [n, n].
        weights: n numbers >= 0, not all 0; only their ratios matter.
    """
    w = np.asarray(weights, dtype=np.float64) / float(np.sum(weights))
    norms, cosine = cosines(gram)
    pull = np.where(norms > 0.0, w, 0.0)
    length = np.sqrt(max(float(pull @ cosine @ pull), 0.0))
    if length <= CANCELLED * float(pull.sum()):
        return w
    mean = pull / length
    pull = pull / pull.sum()
    for _ in range(STEPS):
        tangent = _tangent(mean, cosine, pull)
        size = np.sqrt(max(float(tangent @ cosine @ tangent), 0.0))
        if size < STILL:
            break
        mean = np.cos(size) * mean + np.sin(size) / size * tangent
        mean = mean / np.sqrt(max(float(mean @ cosine @ mean), STILL))
    return np.asarray(float(w @ norms) * mean * _inverse(norms))


def _tangent(mean: Array, cosine: Array, pull: Array) -> Array:
    """The weighted sum of what points from the mean to each direction along the sphere."""
    along = np.clip(cosine @ mean, -1.0, 1.0)
    theta = np.arccos(along)
    sine = np.sin(theta)
    stretch = np.where(sine > COLLINEAR, theta / np.where(sine > COLLINEAR, sine, 1.0), np.where(along > 0.0, 1.0, 0.0))
    return np.asarray(pull * stretch - float((pull * stretch) @ along) * mean)


def stock_ratio(gram: Array) -> Array:
    """Model Stock's t = n c / (1 + (n - 1) c), c the mean cosine of all pairs: [...]; 0 where it is not defined.

    Args:
        gram: [..., n, n], n >= 2; of task vectors.
    """
    n = gram.shape[-1]
    _, cosine = cosines(gram)
    pair = np.triu_indices(n, 1)
    c = cosine[..., pair[0], pair[1]].mean(axis=-1)
    divisor = 1.0 + (n - 1) * c
    defined = np.abs(divisor) >= SINGULAR
    return np.where(defined, n * c / np.where(defined, divisor, 1.0), 0.0)


def _inverse(norms: Array) -> Array:
    return np.where(norms > 0.0, 1.0 / np.where(norms > 0.0, norms, 1.0), 0.0)
