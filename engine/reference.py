"""The slow plain oracle: each method on whole tensors, straight from its formula. Tests compare the engine with it.

It shares nothing with the engine but the keys of the random words, and it is never used to make a candidate.
Task vectors are differences in float32, and so are the numbers whose order decides what is kept; all else is float64.

Notation: b the base, x_i expert i, d_i = x_i - b, w_i its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from evomerge.engine.random_bits import Key, random_key
from evomerge.errors import unknown_name

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """One parameter to be merged.

    Attributes:
        b: float32 [numel].
        x: of each expert likewise.
        shape: of the parameter.
        shared: the key of the words that all experts share.
        keys: of each expert's words.
    """

    b: Array
    x: Sequence[Array]
    shape: tuple[int, ...]
    shared: Key
    keys: Sequence[Key]

    @cached_property
    def d(self) -> list[Array]:
        """Task vectors, float32."""
        return [x - self.b for x in self.x]

    @property
    def columns(self) -> int:
        """Elements in a row of the last axis."""
        return max(self.shape[-1] if self.shape else 1, 1)

    def row_words(self, key: Key) -> Array:
        """uint64 [numel]: the word of the arena's row that each element lies in."""
        row = np.arange(self.b.size, dtype=np.uint64) // np.uint64(1024 if self.b.size >= 65_536 else 16)
        return (row * np.uint64(0x9E3779B9) + np.uint64(key.high)) & np.uint64(0xFFFFFFFF)

    def words(self, expert: int) -> Array:
        """uint32 [numel]: the expert's words: triple32 with two key words, xor, one multiplication, signed order."""
        h = np.arange(self.b.size, dtype=np.uint32) ^ np.uint32(self.shared.low)
        h = (h ^ (h >> np.uint32(17))) * np.uint32(0xED5AD4BB)
        h = (h ^ (h >> np.uint32(11))) * np.uint32(0xAC4C1B51) + np.uint32(self.shared.high)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x31848BAB)
        h = h ^ (h >> np.uint32(14))
        return (h ^ np.uint32(self.keys[expert].low)) * np.uint32(self.keys[expert].high | 1) ^ np.uint32(2**31)


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
    case = Case(
        base.float().numpy().ravel(),
        [expert.float().numpy().ravel() for expert in experts.values()],
        tuple(base.shape),
        random_key(seed, "", parameter),
        [random_key(seed, name, parameter) for name in experts],
    )
    merged = REFERENCES[method](case, {name.rstrip("_"): value for name, value in values.items()})
    return torch.from_numpy(np.asarray(merged, dtype=np.float64)).reshape(base.shape)


def _linear(case: Case, v: Mapping[str, Any]) -> Array:
    total, size = float(np.sum(v["weight"])), float(np.sum(np.abs(v["weight"])))
    if size == 0 or (v["normalize"] and abs(total) <= 1e-6 * size):
        return case.b
    merged = _weighted(v["weight"], case.x)
    return merged / total if v["normalize"] else merged


def _slerp(case: Case, v: Mapping[str, Any]) -> Array:
    a, c, t = case.b.astype(np.float64), case.x[0].astype(np.float64), v["t"]
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(c))
    cosine = float(a @ c) / size if size > 0 else 1.0
    if abs(cosine) > 0.9995:
        return np.asarray((1 - t) * a + t * c)
    return _arc(a, c, t)


def _arc(a: Array, c: Array, t: float) -> Array:
    size = float(np.linalg.norm(a)) * float(np.linalg.norm(c))
    theta = float(np.arccos(np.clip(float(a @ c) / size, -1, 1))) if size > 0 else 0.0
    if np.sin(theta) <= 1e-4:
        return (1 - t) * a + t * c
    merged: Array = (np.sin((1 - t) * theta) * a + np.sin(t * theta) * c) / np.sin(theta)
    return merged


def _nuslerp(case: Case, v: Mapping[str, Any]) -> Array:
    one, two = v["weight"]
    if one == two == 0:
        return case.b
    t = two / (one + two) if abs(one + two) >= 1e-6 else 0.5
    origin = case.b.astype(np.float64) if v["task_vectors"] else np.zeros(case.b.size)
    columns = case.columns if v["row_wise"] else max(case.b.size, 1)
    rows = [(x - origin).reshape(-1, columns) for x in case.x]
    arcs = [_arc(a, c, t) for a, c in zip(*rows, strict=True)]
    return np.asarray(origin + np.concatenate([np.zeros(0), *arcs]))


def _multislerp(case: Case, v: Mapping[str, Any]) -> Array:
    w = np.array(v["weight"])
    if not w.any() or (v["normalize"] and abs(w.sum()) <= 1e-6 * np.abs(w).sum()):
        return case.b
    w = w / w.sum() if v["normalize"] else w
    origin, vectors, norms, units = _directions(case, v["task_vectors"])
    mean = _weighted(w, units)
    if np.linalg.norm(mean) <= 1e-4 * np.abs(w).sum():
        return np.asarray(origin + _weighted(w, vectors))
    return np.asarray(origin + float(w @ norms) * mean / np.linalg.norm(mean))


def _karcher(case: Case, v: Mapping[str, Any]) -> Array:
    w = np.array(v["weight"])
    if not w.any():
        return case.b
    w = w / w.sum()
    origin, vectors, norms, units = _directions(case, v["task_vectors"])
    pull = w * (norms > 0)
    mean = _weighted(pull, units)
    if np.linalg.norm(mean) <= 1e-4 * pull.sum():
        return np.asarray(origin + _weighted(w, vectors))
    mean /= np.linalg.norm(mean)
    pull /= pull.sum()
    for _ in range(300):
        step = sum((p * _log(mean, u) for p, u in zip(pull, units, strict=True)), np.zeros(mean.size))
        size = float(np.linalg.norm(step))
        if size < 1e-13:
            break
        mean = np.cos(size) * mean + np.sin(size) * step / size
        mean /= np.linalg.norm(mean)
    return np.asarray(origin + float(w @ norms) * mean)


def _log(mean: Array, unit: Array) -> Array:
    """The tangent vector at `mean` that leads to `unit`."""
    along = float(np.clip(mean @ unit, -1, 1))
    theta = float(np.arccos(along))
    if np.sin(theta) <= 1e-4:
        return (unit - along * mean) * (along > 0)
    return np.asarray((unit - along * mean) * theta / np.sin(theta))


def _directions(case: Case, task_vectors: bool) -> tuple[Array, list[Array], Array, list[Array]]:
    """Origin, vectors, their norms and unit vectors (a zero vector stays zero)."""
    origin = case.b.astype(np.float64) if task_vectors else np.zeros(case.b.size)
    vectors = [x - origin for x in case.x]
    norms = np.array([np.linalg.norm(vector) for vector in vectors])
    return origin, vectors, norms, [u / n if n > 0 else u for u, n in zip(vectors, norms, strict=True)]


def _model_stock(case: Case, v: Mapping[str, Any]) -> Array:
    columns = case.columns if v["filter_wise"] else max(case.b.size, 1)
    b = case.b.astype(np.float64).reshape(-1, columns)
    x = np.stack([expert.astype(np.float64).reshape(-1, columns) for expert in case.x])
    n, merged = len(x), np.zeros_like(b)
    for row in range(len(b)):
        d = x[:, row] - b[row]
        sizes = np.linalg.norm(d, axis=1)
        cosines = [
            float(d[i] @ d[j]) / (sizes[i] * sizes[j]) if sizes[i] * sizes[j] > 0 else 0.0
            for i in range(n)
            for j in range(i)
        ]
        c = float(np.mean(cosines))
        divisor = 1 + (n - 1) * c
        t = n * c / divisor if abs(divisor) >= 1e-6 else 0.0
        merged[row] = t * x[:, row].mean(axis=0) + (1 - t) * b[row]
    return merged.ravel()


def _family(case: Case, v: Mapping[str, Any], *, elect: bool, sparsify: Callable[..., Array] | None = None) -> Array:
    """b + lambda sum_i m_i t_i / sum_i m_i w_i with t_i = w_i sparsify(d_i)."""
    d = [sparsify(case, i, v) if sparsify else d.astype(np.float64) for i, d in enumerate(case.d)]
    t = np.stack([w * di.astype(np.float64) for w, di in zip(v["weight"], d, strict=True)])
    majority = np.where(t.sum(axis=0) >= 0, 1.0, -1.0)
    m = (np.sign(t) == majority) if elect else np.ones_like(t)
    divisor = (m * np.array(v["weight"])[:, None]).sum(axis=0) if v["normalize"] else np.ones(case.b.size)
    return np.asarray(case.b + v["lambda"] * (m * t).sum(axis=0) / np.where(np.abs(divisor) < 1e-8, 1.0, divisor))


def _top(values: Array, k: int, words: Array) -> Array:
    """Which are the k largest; of those tied at the k-th, those in rows with small words."""
    if k == 0:
        return np.zeros(values.size, dtype=bool)
    kth = np.sort(values)[values.size - k]
    above, tied = values > kth, values == kth
    lucky = words < (k - int(above.sum())) * 2**32 // max(int(tied.sum()), 1)
    return np.asarray(above | (tied & lucky))


def _trim(case: Case, i: int, v: Mapping[str, Any]) -> Array:
    d = case.d[i]
    return np.where(_top(np.abs(d), int(v["density"][i] * d.size), case.row_words(case.keys[i])), d, 0)


def _trim_both_ends(case: Case, i: int, v: Mapping[str, Any]) -> Array:
    d, words = case.d[i], case.row_words(case.keys[i])
    kept = int(v["density"][i] * d.size)
    dropped = min(int(v["gamma"][i] * d.size), d.size - kept)
    return np.where(_top(np.abs(d), kept + dropped, words) & ~_top(np.abs(d), dropped, words), d, 0)


def _drop(case: Case, i: int, v: Mapping[str, Any]) -> Array:
    d, density = case.d[i].astype(np.float64), v["density"][i]
    return _rescaled(d, np.where(case.words(i) < int(density * 2**32), d, 0.0), density, v["rescale"])


def _drop_by_rank(case: Case, i: int, v: Mapping[str, Any]) -> Array:
    d, density, epsilon = case.d[i].astype(np.float64), v["density"][i], v["epsilon"][i]
    if density in (0, 1):
        return np.asarray(d * density)
    rows = np.abs(case.d[i]).reshape(-1, case.columns)
    rank = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1).ravel()
    critical = case.words(i) / 2**32 + epsilon - 2 * epsilon * rank / max(case.columns - 1, 1)
    kept = np.where(np.rint(critical * 2**14) < np.float32(density) * 2**14, d, 0.0)
    return _rescaled(d, kept, density, v["rescale"])


def _rescaled(d: Array, kept: Array, density: float, rescale: str) -> Array:
    if rescale == "inverse_density" and density > 0:
        return kept / density
    if rescale == "l1" and np.abs(kept).sum() > 0:
        return np.asarray(kept * np.abs(d).sum() / np.abs(kept).sum())
    return kept


def _sce(case: Case, v: Mapping[str, Any]) -> Array:
    d, n = np.stack(case.d), len(case.d)
    if v["select_topk"] == 0:
        return case.b
    if v["select_topk"] < 1 and n > 1:
        share = np.float32(1 / n)
        mean = np.float32(0) + sum(d[1:], start=d[0]) * share
        variance = sum(((di - mean) * (di - mean) for di in d), start=np.zeros_like(mean)) * share
        k = int(v["select_topk"] * int((variance > 0).sum()))
        d = np.where(_top(variance, k, case.row_words(case.shared)), d, np.float32(0))
    squares = np.square(d.astype(np.float64)).sum(axis=1)
    w = squares / squares.sum() if squares.sum() > 0 else squares
    s = np.where(d.astype(np.float64).sum(axis=0) >= 0, 1.0, -1.0)
    m = np.sign(d) == s
    divisor = (m * w[:, None]).sum(axis=0)
    return np.asarray(case.b + v["lambda"] * (m * d * w[:, None]).sum(axis=0) / np.where(divisor < 1e-8, 1, divisor))


def _ram(case: Case, v: Mapping[str, Any]) -> Array:
    d = np.stack(case.d)
    moved = np.abs(d) > np.float32(v["epsilon"])
    return np.asarray(case.b + v["lambda"] * (moved * d.astype(np.float64)).sum(axis=0) / np.maximum(moved.sum(0), 1))


def _nearswap(case: Case, v: Mapping[str, Any]) -> Array:
    d = case.d[0].astype(np.float64)
    step = np.minimum(v["t"] / np.where(d == 0, 1, np.abs(d)), 1.0)
    return np.asarray((1 - step) * case.b + step * case.x[0])


def _arcee_fusion(case: Case, v: Mapping[str, Any]) -> Array:
    if case.b.size == 0:
        return case.b
    p, q = (_softmax(values.reshape(-1, case.columns)) + 1e-8 for values in (case.x[0], case.b))
    divergence = np.maximum((p * np.log(p / q)).sum(axis=1), 0.0).astype(np.float32)
    importance = (np.abs(case.d[0]).reshape(-1, case.columns) * divergence[:, None]).ravel()
    ascending = np.sort(importance).astype(np.float64)
    first, median, third = (ascending[int(share * (len(ascending) - 1))] for share in (0.25, 0.5, 0.75))
    return np.where(importance >= np.float32(median + 1.5 * (third - first)), case.x[0], case.b)


def _softmax(values: Array) -> Array:
    grown = np.exp(values.astype(np.float64) - values.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def _passthrough(case: Case, v: Mapping[str, Any]) -> Array:
    return np.asarray(case.x[0].astype(np.float64) * v["scale"])


def _consensus(case: Case, v: Mapping[str, Any]) -> Array:
    active = [i for i, w in enumerate(v["weight"]) if w != 0]
    if not active:
        return case.b
    t = np.stack([v["weight"][i] * case.d[i].astype(np.float64) for i in active])
    total = t.sum(axis=0)
    others = np.stack([t[[j for j in range(len(t)) if j != i]].sum(axis=0) for i in range(len(t))])
    votes = (np.abs(t) >= v["threshold"] * np.abs(others)).sum(axis=0)
    return np.asarray(case.b + v["lambda"] * np.where(votes >= min(v["agree"], len(active)), total, 0.0))


def _pcb(case: Case, v: Mapping[str, Any]) -> Array:
    active = [i for i, w in enumerate(v["weight"]) if w != 0]
    if not active or case.b.size == 0:
        return case.b
    d = {i: case.d[i].astype(np.float64) for i in active}
    over, under = np.zeros(case.b.size), np.zeros(case.b.size)
    for i in active:
        own = _softmax(len(active) * _normalized(d[i] * d[i]))
        score = own * sum(_softmax(_normalized(d[i] * d[j])) for j in active)
        k = int(v["density"][i] * case.b.size)
        score = np.where(_top(score, k, case.row_words(case.keys[i])), score, 0.0)
        over, under = over + score * v["weight"][i] * d[i], under + score
    return np.asarray(case.b + v["lambda"] * over / np.where(under > 0, under, 1.0))


def _normalized(values: Array) -> Array:
    """The smallest to 0, the largest to 1; constants to 0."""
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 1e-37 else np.zeros_like(values)


def _weighted(weights: Sequence[float] | Array, vectors: Sequence[Array]) -> Array:
    return np.asarray(sum(w * vector.astype(np.float64) for w, vector in zip(weights, vectors, strict=True)))


REFERENCES: dict[str, Callable[[Case, Mapping[str, Any]], Array]] = {
    "arcee_fusion": _arcee_fusion,
    "breadcrumbs": partial(_family, elect=False, sparsify=_trim_both_ends),
    "breadcrumbs_ties": partial(_family, elect=True, sparsify=_trim_both_ends),
    "consensus": _consensus,
    "dare_linear": partial(_family, elect=False, sparsify=_drop),
    "dare_ties": partial(_family, elect=True, sparsify=_drop),
    "della": partial(_family, elect=True, sparsify=_drop_by_rank),
    "della_linear": partial(_family, elect=False, sparsify=_drop_by_rank),
    "karcher": _karcher,
    "linear": _linear,
    "model_stock": _model_stock,
    "multislerp": _multislerp,
    "nearswap": _nearswap,
    "nuslerp": _nuslerp,
    "passthrough": _passthrough,
    "pcb": _pcb,
    "ram": _ram,
    "sce": _sce,
    "slerp": _slerp,
    "task_arithmetic": partial(_family, elect=False),
    "ties": partial(_family, elect=True, sparsify=_trim),
}
"""The oracle of each built-in method."""
