"""Exact trim thresholds: the k-th largest magnitude of a task vector, and how many elements lie above and at it.

The bits of a non-negative float32, read as an integer, sort as the numbers do. A large vector keeps a histogram
over the upper 16 bits; the bin that holds the k-th magnitude is looked into once more, unless all of it has the
same bits. That is the rule for differences of bfloat16 weights, so their thresholds are one look-up.
A small vector keeps its sorted magnitudes.

Memory: at most 64 KiB for a vector of up to 16,384 elements, else 11 bytes for each occupied bin (some thousand).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

SMALL = 16_384
BINS = 2**15
NOT_FINITE = 0x7F80  # upper bits of infinity; those of NaN are larger or equal
RECENT = 64


class Threshold(NamedTuple):
    """The k-th largest magnitude.

    Attributes:
        value: the magnitude, exactly.
        above: how many elements are larger.
        tied: how many are equal; above < k <= above + tied.
    """

    value: float
    above: int
    tied: int


class MagnitudeTable:
    """What is needed to answer `threshold(k)` for every k.

    Args:
        chunks: yields the vector's magnitudes, float32 chunks in order, as often as it is called.
        numel: their number.

    Attributes:
        finite: whether all magnitudes are.
    """

    def __init__(self, chunks: Callable[[], Iterator[torch.Tensor]], numel: int) -> None:
        self._chunks = chunks
        self._sorted: np.ndarray | None = None
        if numel <= SMALL:
            everything = torch.cat([torch.empty(0), *(chunk.cpu() for chunk in chunks())])
            self._sorted = everything.sort().values.numpy()
            self.finite = bool(np.isfinite(self._sorted).all())
        else:
            self._count()
        self.threshold = lru_cache(maxsize=RECENT)(self._threshold)
        """The `Threshold` of k in [1, numel]; the most recent answers are kept."""

    def _count(self) -> None:
        counts = np.zeros(BINS, dtype=np.int64)
        mixed = np.zeros(BINS, dtype=bool)
        for chunk in self._chunks():
            bits = chunk.view(torch.int32)
            upper, lower = bits >> 16, bits & 0xFFFF
            counts += torch.bincount(upper, minlength=BINS).cpu().numpy()
            if lower.amax() > 0:
                mixed[upper[lower > 0].cpu().numpy()] = True
        self._bins = np.flatnonzero(counts)[::-1].astype(np.uint16)
        self._up_to = counts[self._bins].cumsum()
        self._mixed = mixed[self._bins]
        self.finite = bool(self._bins[0] < NOT_FINITE)

    def _threshold(self, k: int) -> Threshold:
        if self._sorted is not None:
            return _in_sorted(self._sorted, k)
        place = int(np.searchsorted(self._up_to, k))
        above = int(self._up_to[place - 1]) if place else 0
        if not self._mixed[place]:
            value = np.array([int(self._bins[place]) << 16], dtype=np.int32).view(np.float32)[0]
            return Threshold(float(value), above, int(self._up_to[place]) - above)
        inside = _in_sorted(self._members(int(self._bins[place])), k - above)
        return inside._replace(above=above + inside.above)

    def _members(self, upper: int) -> np.ndarray:
        """The sorted magnitudes whose upper 16 bits are `upper`."""
        members = [chunk[chunk.view(torch.int32) >> 16 == upper].cpu() for chunk in self._chunks()]
        return torch.cat(members).sort().values.numpy()


def _in_sorted(ascending: np.ndarray, k: int) -> Threshold:
    value = ascending[len(ascending) - k]
    first, last = np.searchsorted(ascending, value, side="left"), np.searchsorted(ascending, value, side="right")
    return Threshold(float(value), len(ascending) - int(last), int(last - first))
