"""What merge methods may know about each parameter: computed when first asked for, then kept.

Nothing here depends on a candidate's coefficients, so a search pays for it once. Sums run in float64 over chunks
of a fixed size, one after the other: the same on every run and for any number of threads. Kept are (n + 1)^2
numbers a parameter for Gram matrices and a `MagnitudeTable` for each parameter and expert that was trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch

from evomerge.engine.magnitudes import MagnitudeTable
from evomerge.engine.plan import EVERY, Keep
from evomerge.engine.random_bits import Key, random_bits, random_key
from evomerge.errors import InputError

K = TypeVar("K")
T = TypeVar("T")
BASE = 0


class Sources(Protocol):
    """The base's and the experts' parameters as flat tensors."""

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts' names."""

    @property
    def chunk(self) -> int:
        """How many elements statistics and kernels handle at a time on this device."""

    def flat(self, source: int, parameter: str) -> torch.Tensor:
        """One parameter of the base (source 0) or of expert `source - 1`: floating, 1-D, in its stored dtype."""


class Statistics:
    """The statistics of all parameters of one set of sources.

    Args:
        sources: base and experts.
    """

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._grams: dict[str, tuple[tuple[float, ...], ...]] = {}
        self._tables: dict[tuple[str, int], MagnitudeTable] = {}
        self._l1: dict[tuple[str, int], float] = {}

    def of(self, parameter: str, experts: Sequence[int], seed: int) -> OneParameter:
        """The statistics of `parameter` as a recipe with these experts (by position here) and this seed sees it."""
        return OneParameter(self, parameter, tuple(experts), seed)

    def gram(self, parameter: str) -> tuple[tuple[float, ...], ...]:
        """As `ParameterStatistics.gram`."""
        return _kept(self._grams, parameter, lambda: self._gram(parameter))

    def table(self, parameter: str, expert: int) -> MagnitudeTable:
        """The magnitudes of the expert's task vector. Raises InputError when one is not finite."""
        return _kept(self._tables, (parameter, expert), lambda: self._table(parameter, expert))

    def l1(self, parameter: str, expert: int) -> float:
        """sum abs(d_i) over all elements."""
        return _kept(self._l1, (parameter, expert), lambda: self.kept_l1(parameter, expert, None, EVERY))

    def kept_l1(self, parameter: str, expert: int, key: Key | None, cut: int) -> float:
        """sum abs(d_i) over the elements whose random word is below `cut`; not kept, since it depends on the seed."""
        total, start = 0.0, 0
        for magnitude in self._magnitudes(parameter, expert):
            stop = start + magnitude.numel()
            if key is not None:
                magnitude.mul_(random_bits(key, torch.arange(start, stop, device=magnitude.device)) < cut)
            total += float(magnitude.sum(dtype=torch.float64))
            start = stop
        return total

    def _gram(self, parameter: str) -> tuple[tuple[float, ...], ...]:
        flats = [self.sources.flat(source, parameter) for source in range(len(self.sources.experts) + 1)]
        gram = np.zeros((len(flats), len(flats)))
        for start in range(0, flats[BASE].numel(), self.sources.chunk):
            parts = [flat[start : start + self.sources.chunk].double() for flat in flats]
            for i, left in enumerate(parts):
                for j in range(i + 1):
                    gram[i, j] += float((left * parts[j]).sum())
        gram = np.tril(gram) + np.tril(gram, -1).T
        return tuple(tuple(map(float, row)) for row in gram)

    def _table(self, parameter: str, expert: int) -> MagnitudeTable:
        numel = self.sources.flat(BASE, parameter).numel()
        table = MagnitudeTable(lambda: self._magnitudes(parameter, expert), numel)
        if not table.finite:
            name = self.sources.experts[expert]
            raise InputError(
                f"weights must be finite, but {parameter} of base or expert {name!r} holds NaN or infinity"
            )
        return table

    def _magnitudes(self, parameter: str, expert: int) -> Iterator[torch.Tensor]:
        base, own = self.sources.flat(BASE, parameter), self.sources.flat(expert + 1, parameter)
        for start in range(0, base.numel(), self.sources.chunk):
            span = slice(start, start + self.sources.chunk)
            yield (own[span].float() - base[span].float()).abs_()


class OneParameter:
    """The statistics of one parameter, as methods see them: a `ParameterStatistics`.

    Args:
        statistics: of all sources.
        parameter: its name.
        experts: which of the sources' experts take part, in the recipe's order.
        seed: of the recipe's random words.
    """

    def __init__(self, statistics: Statistics, parameter: str, experts: tuple[int, ...], seed: int) -> None:
        self._statistics = statistics
        self._parameter = parameter
        self._experts = experts
        self._seed = seed

    @property
    def numel(self) -> int:
        """The number of elements."""
        return self._statistics.sources.flat(BASE, self._parameter).numel()

    def key(self, expert: int) -> Key:
        """The key of the expert's random words."""
        return random_key(self._seed, self._statistics.sources.experts[self._experts[expert]], self._parameter)

    def gram(self) -> tuple[tuple[float, ...], ...]:
        """Inner products of base (row 0) and experts."""
        gram = self._statistics.gram(self._parameter)
        rows = [BASE, *(expert + 1 for expert in self._experts)]
        return tuple(tuple(gram[i][j] for j in rows) for i in rows)

    def trim(self, expert: int, density: float) -> Keep:
        """The rule that keeps the top k = int(density * numel) of abs(d_i).

        Of the elements tied at the k-th magnitude the share (k - above) / tied survives, chosen by their random
        words (docs/decisions/0002-ties-at-the-trim-threshold.md).
        """
        k = int(density * self.numel)
        if k >= self.numel:
            return Keep()
        if k == 0:
            return Keep(threshold=float("inf"))
        value, above, tied = self._statistics.table(self._parameter, self._experts[expert]).threshold(k)
        if value == 0.0:
            return Keep(threshold=0.0)
        if above + tied == k:
            return Keep(threshold=float(np.nextafter(np.float32(value), np.float32(0.0))))
        return Keep(threshold=value, ties=(k - above) * EVERY // tied)

    def l1(self, expert: int, cut: int = EVERY) -> float:
        """sum abs(d_i) over the elements whose random word is below `cut`."""
        if cut == EVERY:
            return self._statistics.l1(self._parameter, self._experts[expert])
        return self._statistics.kept_l1(self._parameter, self._experts[expert], self.key(expert), cut)


def _kept(cache: dict[K, T], key: K, compute: Callable[[], T]) -> T:
    if key not in cache:
        cache[key] = compute()
    return cache[key]
