"""Exact thresholds: the k-th largest of many numbers, and how many of them lie above and at it.

The bits of a non-negative float32, read as an integer, sort as the numbers do. Differences of bfloat16 or float16
weights take few distinct values, nearly all with 13 lower bits of zero: a large vector of such keeps its distinct
magnitudes with their counts, so every threshold is one look-up. Differences of float32 weights keep a histogram over
the upper 16 bits, and the bin that holds the k-th magnitude is looked into once more. A small vector keeps its
sorted magnitudes.

Memory: at most 64 KiB for a vector of up to 16,384 elements; else 12 bytes for each distinct magnitude (some ten
thousand), or 11 for each occupied bin (some thousand).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch

SMALL = 16_384
BINS = 2**15
INFINITE = 0x7F800000  # the bits of infinity; those of NaN are larger
PIECE = 2**18
FEW = 16  # elements for each distinct magnitude, at least, where all of these are kept
LOWER = 13  # bits that are zero in nearly all differences of 16-bit weights
RECENT = 64
BINS_LOOKED_INTO = 4  # are kept; a search moves a density by little at a time
NO_SIGN = 0x7FFFFFFF  # -0.0 counts as 0.0


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
        many: whether they are known to take many values; otherwise that is found out.
        counted: the arrays of another table of the same magnitudes, which need not be counted again then.

    """

    def __init__(
        self,
        chunks: Callable[[], Iterator[torch.Tensor]],
        numel: int,
        *,
        many: bool = False,
        counted: Sequence[np.ndarray] | None = None,
    ) -> None:
        self._chunks = chunks
        self._numel = numel
        self._sorted: np.ndarray | None = None
        self._mixed: np.ndarray | None = None
        if counted is not None:
            self._take(counted)
        elif numel <= SMALL:
            everything = torch.cat([torch.empty(0), *(chunk.cpu() for chunk in chunks())])
            self._sorted = everything.sort().values.numpy()
        elif many:
            self._count_bins()
        else:
            self._count()
        self._members = lru_cache(maxsize=BINS_LOOKED_INTO)(self._members_of)
        self.threshold = lru_cache(maxsize=RECENT)(self._threshold)
        """The `Threshold` of k in [1, numel]; the most recent answers are kept."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that was counted: sorted magnitudes; or distinct ones, or bins, with their counts."""
        if self._sorted is not None:
            return (self._sorted,)
        return (self._values, self._up_to) if self._mixed is None else (self._values, self._up_to, self._mixed)

    @property
    def finite(self) -> bool:
        """Whether all magnitudes are finite: the largest tells, and NaN counts as larger than any."""
        if self._sorted is not None:
            return not len(self._sorted) or bool(np.isfinite(self._sorted[-1]))
        return bool(self._values[0] < INFINITE)

    def _take(self, counted: Sequence[np.ndarray]) -> None:
        if len(counted) == 1:
            (self._sorted,) = counted
        else:
            self._values, self._up_to, *mixed = counted
            self._mixed = mixed[0] if mixed else None

    def _count(self) -> None:
        """Count distinct magnitudes, and give up where they are too many."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for chunk in gathered(self._chunks(), PIECE):
            found.append(distinct(chunk))
            pending = sum(len(values) for values, _ in found)
            if pending > PIECE:
                found = [merged(*map(np.concatenate, zip(*found, strict=True)))]
            if len(found[-1][0]) > max(chunk.numel() // 4, self._numel // FEW, BINS):
                self._count_bins()
                return
        values, counts = merged(*map(np.concatenate, zip(*found, strict=True)))
        self._values, self._up_to = values[::-1], counts[::-1].cumsum()

    def _count_bins(self) -> None:
        counts = np.zeros(BINS, dtype=np.int64)
        mixed = np.zeros(BINS, dtype=bool)
        for chunk in self._chunks():
            bits = chunk.view(torch.int32) & NO_SIGN
            upper, lower = bits >> 16, bits & 0xFFFF
            counts += torch.bincount(upper, minlength=BINS).cpu().numpy()
            if lower.amax() > 0:
                mixed[upper[lower > 0].cpu().numpy()] = True
        bins = np.flatnonzero(counts)[::-1]
        self._values, self._up_to = (bins << 16).astype(np.int32), counts[bins].cumsum()
        self._mixed = mixed[bins]

    def _threshold(self, k: int) -> Threshold:
        if self._sorted is not None:
            return _in_sorted(self._sorted, k)
        place = int(np.searchsorted(self._up_to, k))
        above = int(self._up_to[place - 1]) if place else 0
        if self._mixed is None or not self._mixed[place]:
            value = self._values[place : place + 1].view(np.float32)[0]
            return Threshold(float(value), above, int(self._up_to[place]) - above)
        inside = _in_sorted(self._members(int(self._values[place]) >> 16), k - above)
        return inside._replace(above=above + inside.above)

    def _members_of(self, upper: int) -> np.ndarray:
        """The sorted magnitudes whose upper 16 bits are `upper`."""
        members = [chunk[(chunk.view(torch.int32) & NO_SIGN) >> 16 == upper].cpu() for chunk in self._chunks()]
        return torch.cat(members).sort().values.numpy()


class RankTable:
    """The same for numbers that may have either sign: a `MagnitudeTable` of those above 0 and one of those below.

    Args:
        chunks: yields the numbers, float32 chunks in order, as often as it is called; none is minus infinity.
        numel: how many they are.
        many: whether they take many values, as the results of float32 arithmetic do.
        counted: the arrays of another table of the same numbers, which need not be counted again then.

    Attributes:
        finite: whether all numbers are.
        positive: how many are above 0.
    """

    def __init__(
        self,
        chunks: Callable[[], Iterator[torch.Tensor]],
        numel: int,
        *,
        many: bool,
        counted: Sequence[np.ndarray] | None = None,
    ) -> None:
        self._chunks, self._numel, self._many = chunks, numel, many
        self._above = MagnitudeTable(
            lambda: (chunk.clamp(min=0.0) for chunk in chunks()), numel, many=many, counted=counted
        )
        self.finite = self._above.finite
        self.positive = _positive(self._above, numel) if self.finite else 0

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that was counted of the numbers above 0; what lies below is counted where it is needed."""
        return self._above.arrays

    def threshold(self, k: int) -> Threshold:
        """The `Threshold` of k in [1, numel]."""
        if k <= self.positive:
            return self._above.threshold(k)
        value, above, tied = self._below.threshold(self._numel - k + 1)
        if value == 0.0:
            return Threshold(0.0, self.positive, self._numel - self.positive - above)
        return Threshold(-value, self._numel - above - tied, tied)

    @cached_property
    def _below(self) -> MagnitudeTable:
        """Of the negative numbers: made when it is first needed, since most thresholds lie above 0."""
        return MagnitudeTable(
            lambda: ((-chunk).clamp(min=0.0) for chunk in self._chunks()), self._numel, many=self._many
        )


def _positive(table: MagnitudeTable, numel: int) -> int:
    if numel == 0:
        return 0
    value, above, tied = table.threshold(numel)
    return above + tied if value > 0.0 else above


def gathered(chunks: Iterator[torch.Tensor], numel: int) -> Iterator[torch.Tensor]:
    """The same numbers in chunks of at least `numel` (the last one may be smaller)."""
    held: list[torch.Tensor] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += chunk.numel()
        if size >= numel:
            yield torch.cat(held)
            held, size = [], 0
    if held:
        yield torch.cat(held)


def distinct(chunk: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The distinct magnitudes of a chunk, as the bits of float32, and how often each occurs.

    Magnitudes with lower bits of zero are counted in bins; the others, few among differences of 16-bit weights, are
    sorted.
    """
    bits = chunk.view(torch.int32) & NO_SIGN
    smallest = int(torch.where(bits == 0, INFINITE, bits).min())
    first = (smallest >> LOWER) - 1  # the bin of zeros
    counts = torch.bincount(((bits >> LOWER) - first).clamp_(min=0))
    odd = bits[(bits & (2**LOWER - 1)) != 0]
    if odd.numel():
        counts -= torch.bincount((odd >> LOWER) - first, minlength=counts.numel())
    bins = counts.nonzero().view(-1)
    values = torch.where(bins == 0, 0, (bins + first) << LOWER).int().cpu().numpy()
    others, often = np.unique(odd.cpu().numpy(), return_counts=True)
    return merged(np.concatenate([values, others]), np.concatenate([counts[bins].cpu().numpy(), often]))


def merged(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending values without repetition, the counts of equal ones added."""
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, int)
    return values[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _in_sorted(ascending: np.ndarray, k: int) -> Threshold:
    value = ascending[len(ascending) - k]
    first, last = np.searchsorted(ascending, value, side="left"), np.searchsorted(ascending, value, side="right")
    return Threshold(float(value), len(ascending) - int(last), int(last - first))
