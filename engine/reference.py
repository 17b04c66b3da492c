"""The slow plain oracle: each method on whole tensors, straight from its formula. Tests compare the engine with it.

It shares nothing with the engine but the key of the random words, and it is never used to make a candidate.
Task vectors are differences in float32, as their magnitudes decide what is trimmed; all else is float64.

Notation: b the base, x_i expert i, d_i = x_i - b, w_i its weight, r_i its random words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from evomerge.engine.random_bits import random_key
from evomerge.errors import unknown_name

Array = np.ndarray[Any, np.dtype[Any]]


def reference_merge(
    method: str,
    base: torch.Tensor,
    experts: Mapping[str, torch.Tensor],
    values: Mapping[str, Any],
    *,
    parameter: str = "",
    seed: int = 0,
) -> torch.Tensor:
    """One parameter merged by `method`.

    Args:
        method: its name.
        base: floating, any shape.
        experts: by name, in order; each of the base's shape.
        values: a value for each parameter of the method; a sequence where it has one for each expert.
        parameter: the parameter's name, which the random words depend on.
        seed: likewise.

    Returns:
        float64, of the base's shape.
    """
    if method not in REFERENCES:
        raise unknown_name("a method with a reference", method, REFERENCES)
    b = base.float().numpy().ravel()
    x = [expert.float().numpy().ravel() for expert in experts.values()]
    words = [_words(seed, name, parameter, b.size) for name in experts]
    return torch.from_numpy(REFERENCES[method](b, x, words, **values)).reshape(base.shape)


def _words(seed: int, expert: str, parameter: str, size: int) -> Array:
    """uint32 [size]: triple32 with two key words, in 32-bit arithmetic; indices stay below 2^32 here."""
    key = random_key(seed, expert, parameter)
    h = np.arange(size, dtype=np.uint32) ^ np.uint32(key.low)
    h = (h ^ (h >> np.uint32(17))) * np.uint32(0xED5AD4BB)
    h = (h ^ (h >> np.uint32(11))) * np.uint32(0xAC4C1B51) + np.uint32(key.high)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x31848BAB)
    return h ^ (h >> np.uint32(14))


def _linear(b: Array, x: Sequence[Array], words: Sequence[Array], *, weight: Sequence[float], normalize: bool) -> Array:
    total, size = float(np.sum(weight)), float(np.sum(np.abs(weight)))
    if size == 0 or (normalize and abs(total) <= 1e-6 * size):
        return b.astype(np.float64)
    merged = sum((w * xi.astype(np.float64) for w, xi in zip(weight, x, strict=True)), np.zeros(b.size))
    return merged / total if normalize else merged


def _slerp(b: Array, x: Sequence[Array], words: Sequence[Array], *, t: float) -> Array:
    a, c = b.astype(np.float64), x[0].astype(np.float64)
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(c))
    cosine = float(a @ c) / size if size > 0 else 1.0
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * c
    theta = np.arccos(cosine)
    merged: Array = (np.sin((1 - t) * theta) * a + np.sin(t * theta) * c) / np.sin(theta)
    return merged


def _task_arithmetic(
    b: Array, x: Sequence[Array], words: Sequence[Array], *, weight: Sequence[float], normalize: bool, **rest: float
) -> Array:
    return _merge(b, [xi - b for xi in x], weight, elect=False, normalize=normalize, lambda_=rest["lambda"])


def _ties(
    b: Array,
    x: Sequence[Array],
    words: Sequence[Array],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    **rest: float,
) -> Array:
    kept = [_trim(xi - b, share, r) for xi, share, r in zip(x, density, words, strict=True)]
    return _merge(b, kept, weight, elect=True, normalize=normalize, lambda_=rest["lambda"])


def _trim(d: Array, density: float, words: Array) -> Array:
    k = int(density * d.size)
    if k == 0:
        return np.zeros_like(d)
    threshold = np.sort(np.abs(d))[d.size - k]
    above, tied = np.abs(d) > threshold, np.abs(d) == threshold
    lucky = words < (k - int(above.sum())) * 2**32 // max(int(tied.sum()), 1)
    return np.where(above | (tied & lucky), d, 0)


def _dare(elect: bool) -> Callable[..., Array]:
    def merge(
        b: Array,
        x: Sequence[Array],
        words: Sequence[Array],
        *,
        weight: Sequence[float],
        density: Sequence[float],
        normalize: bool,
        rescale: str,
        **rest: float,
    ) -> Array:
        dropped = [_drop(xi - b, share, r, rescale) for xi, share, r in zip(x, density, words, strict=True)]
        return _merge(b, dropped, weight, elect=elect, normalize=normalize, lambda_=rest["lambda"])

    return merge


def _drop(d: Array, density: float, words: Array, rescale: str) -> Array:
    kept = np.where(words < int(density * 2**32), d.astype(np.float64), 0.0)
    if rescale == "inverse_density" and density > 0:
        kept /= density
    if rescale == "l1" and np.abs(kept).sum() > 0:
        kept *= np.abs(d.astype(np.float64)).sum() / np.abs(kept).sum()
    return kept


def _merge(
    b: Array, d: Sequence[Array], weight: Sequence[float], *, elect: bool, normalize: bool, lambda_: float
) -> Array:
    """b + lambda sum_i m_i t_i / sum_i m_i w_i with t_i = w_i d_i (methods of the task-arithmetic family)."""
    t = np.stack([w * di.astype(np.float64) for w, di in zip(weight, d, strict=True)])
    majority = np.where(t.sum(axis=0) >= 0, 1.0, -1.0)
    m = (np.sign(t) == majority) if elect else np.ones_like(t)
    divisor = (m * np.array(weight)[:, None]).sum(axis=0) if normalize else np.ones(b.size)
    merged: Array = b + lambda_ * (m * t).sum(axis=0) / np.where(np.abs(divisor) < 1e-8, 1.0, divisor)
    return merged


REFERENCES: dict[str, Callable[..., Array]] = {
    "linear": _linear,
    "slerp": _slerp,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare_linear": _dare(elect=False),
    "dare_ties": _dare(elect=True),
}
"""The oracle of each built-in method."""
