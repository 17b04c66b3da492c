"""What merge methods may know about each parameter: computed when first asked for, then kept.

Nothing here depends on a candidate's coefficients, so a search pays for it once. Sums run in float64 over chunks
of a fixed size, one after the other: the same on every run, for any number of threads and wherever the sources
are. Kept are (n + 1)^2 numbers a parameter for Gram matrices and a `MagnitudeTable` for each parameter and expert
that was trimmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from evomerge.engine.arena import Segment
from evomerge.engine.magnitudes import MagnitudeTable
from evomerge.engine.plan import EVERY, NOTHING, Array, Cut
from evomerge.engine.random_bits import HALF, Keys, element_hash, expert_word, random_key, row_seeds, signed
from evomerge.engine.store import BASE, Store
from evomerge.errors import InputError

K = TypeVar("K")
T = TypeVar("T")

CHUNK = 2**15
"""Elements that are summed at a time. PyTorch sums so many in the calling thread, in an order of its own."""


class Statistics:
    """The statistics of all parameters of one set of sources.

    Args:
        store: base and experts.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._grams: dict[str, tuple[tuple[float, ...], ...]] = {}
        self._row_grams: dict[str, Array] = {}
        self._tables: dict[tuple[str, int], MagnitudeTable] = {}
        self._l1: dict[tuple[str, int], float] = {}

    def of(self, parameter: str, experts: Sequence[int], seed: int) -> OneParameter:
        """The statistics of `parameter` as a recipe with these experts (by position here) and this seed sees it."""
        return OneParameter(self, parameter, tuple(experts), seed)

    def segment(self, parameter: str) -> Segment:
        """Where the parameter lies."""
        return self.store.segments[parameter][1]

    def gram(self, parameter: str) -> tuple[tuple[float, ...], ...]:
        """As `ParameterStatistics.gram`, of all experts."""
        return _kept(self._grams, parameter, lambda: self._gram(parameter))

    def row_grams(self, parameter: str) -> Array:
        """As `ParameterStatistics.row_grams`, of all experts."""
        return _kept(self._row_grams, parameter, lambda: self._gram_rows(parameter))

    def table(self, parameter: str, expert: int) -> MagnitudeTable:
        """The magnitudes of the expert's task vector. Raises InputError when one is not finite."""
        return _kept(self._tables, (parameter, expert), lambda: self._table(parameter, expert))

    def l1(self, parameter: str, expert: int) -> float:
        """sum abs(d_i) over all elements."""
        return _kept(self._l1, (parameter, expert), lambda: self.kept_l1(parameter, expert, None, EVERY))

    def kept_l1(self, parameter: str, expert: int, keys: Keys | None, cut: int) -> float:
        """sum abs(d_i) over the elements whose random word is below `cut`; not kept, since it depends on the seed.

        Args:
            parameter, expert: whose.
            keys: of the parameter's words, and of this expert's alone; None sums all.
            cut: in [0, 2^32].
        """
        total, start = 0.0, 0
        for magnitude in self._magnitudes(parameter, expert):
            if keys is not None:
                magnitude.mul_(words(keys, start, magnitude) < cut)
            total += float(magnitude.sum(dtype=torch.float64))
            start += magnitude.numel()
        return total

    @property
    def _sources(self) -> range:
        return range(len(self.store.experts) + 1)

    def _gram(self, parameter: str) -> tuple[tuple[float, ...], ...]:
        gram = np.zeros((len(self._sources), len(self._sources)))
        for _, pieces in self.store.chunks(parameter, self._sources, CHUNK):
            parts = [piece.double() for piece in pieces]
            for i, left in enumerate(parts):
                for j in range(i + 1):
                    gram[i, j] += float((left * parts[j]).sum())
        gram = np.tril(gram) + np.tril(gram, -1).T
        return tuple(tuple(map(float, row)) for row in gram)

    def _gram_rows(self, parameter: str) -> Array:
        columns = self.segment(parameter).columns
        rows = []
        for _, pieces in self.store.chunks(parameter, self._sources, CHUNK, columns):
            stacked = torch.stack([piece.view(-1, columns).double() for piece in pieces], dim=1)
            rows.append((stacked @ stacked.mT).cpu().numpy())
        size = len(self._sources)
        return np.concatenate(rows) if rows else np.zeros((0, size, size))

    def _table(self, parameter: str, expert: int) -> MagnitudeTable:
        table = MagnitudeTable(lambda: self._magnitudes(parameter, expert), self.segment(parameter).numel)
        if not table.finite:
            name = self.store.experts[expert]
            raise InputError(
                f"weights must be finite to be trimmed, but {parameter} of base or expert {name!r} holds NaN or infinity"
            )
        return table

    def _magnitudes(self, parameter: str, expert: int) -> Iterator[torch.Tensor]:
        for _, (base, own) in self.store.chunks(parameter, (BASE, expert + 1), CHUNK):
            yield (own.float() - base.float()).abs_()


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
        return self._statistics.segment(self._parameter).numel

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return self._statistics.segment(self._parameter).shape

    def keys(self) -> Keys:
        """The keys of the parameter's random words."""
        names = [self._statistics.store.experts[expert] for expert in self._experts]
        element = random_key(self._seed, "", self._parameter)
        return Keys(element, tuple(random_key(self._seed, name, self._parameter) for name in names))

    def gram(self) -> tuple[tuple[float, ...], ...]:
        """Inner products of base (row 0) and experts."""
        gram = self._statistics.gram(self._parameter)
        return tuple(tuple(gram[i][j] for j in self._rows) for i in self._rows)

    def row_grams(self) -> Array:
        """The same for each row."""
        return self._statistics.row_grams(self._parameter)[:, self._rows][:, :, self._rows]

    def largest(self, expert: int, k: int) -> Cut | None:
        """Where the k largest of abs(d_i) end.

        Of the elements tied at the k-th magnitude the share (k - above) / tied are among them, by the words of
        their rows (docs/decisions/0002-ties-at-the-trim-threshold.md).
        """
        if k >= self.numel:
            return None
        if k == 0:
            return NOTHING
        value, above, tied = self._statistics.table(self._parameter, self._experts[expert]).threshold(k)
        return Cut(value, (k - above) * EVERY // tied) if value > 0.0 else Cut(0.0)

    def l1(self, expert: int, cut: int = EVERY) -> float:
        """sum abs(d_i) over the elements whose random word is below `cut`."""
        if cut == EVERY:
            return self._statistics.l1(self._parameter, self._experts[expert])
        keys = self.keys()
        own = Keys(keys.element, (keys.experts[expert],))
        return self._statistics.kept_l1(self._parameter, self._experts[expert], own, cut)

    @property
    def _rows(self) -> list[int]:
        return [BASE, *(expert + 1 for expert in self._experts)]


def words(keys: Keys, start: int, like: torch.Tensor) -> torch.Tensor:
    """The random words of an expert's elements.

    Args:
        keys: of the parameter, and of this expert alone.
        start: the first element; elements [start, start + m) get words.
        like: [m]; gives m and the device.

    Returns:
        int64 [m] in [0, 2^32).
    """
    width = 16
    first, last = start // width, -(-(start + like.numel()) // width)
    rows = torch.arange(first, last, device=like.device) * width
    seed, later = row_seeds(keys.element, rows)
    key = signed(torch.tensor(keys.experts[0].low, device=like.device))
    word = expert_word(element_hash(seed[:, None], later[:, None], width), key).view(-1).long() + HALF
    return word[start - first * width : start - first * width + like.numel()]


def _kept(cache: dict[K, T], key: K, compute: Callable[[], T]) -> T:
    if key not in cache:
        cache[key] = compute()
    return cache[key]
