"""How single documents' results become one number: a mean, a ratio of sums, or any function of all of them."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge.evaluators.packing import unpack

Floats = npt.NDArray[np.float64]

CORPUS_RESAMPLES = 200  # a function of all documents is not cheap: fewer resamples than a mean gets


@dataclass(frozen=True, slots=True)
class Aggregation:
    """From the results of n documents to one number.

    Attributes:
        name: "mean", or what lm-eval calls the function; two aggregations of one name are equal.
        link: for a ratio, what is done to sum(first) / sum(second) over the documents' items, element by element.
        corpus: for a function of all documents, that function; it gets the documents' items in the order of their keys.
    """

    name: str
    link: Callable[[Floats], Floats] | None = field(default=None, compare=False, repr=False)
    corpus: Callable[[Sequence[Any]], float] | None = field(default=None, compare=False, repr=False)

    @property
    def is_mean(self) -> bool:
        """Whether the number is the mean of the documents' values."""
        return self.link is None and self.corpus is None

    def counted(self, values: Floats, items: Sequence[str | None]) -> npt.NDArray[np.bool_]:
        """Which of n documents count: in a mean those with a value, in anything else those with an item."""
        if self.is_mean:
            return ~np.isnan(values)
        return np.array([item is not None for item in items], dtype=np.bool_)

    def of(self, values: Floats, items: Sequence[str | None]) -> float:
        """The number of these documents; NaN without any that count.

        Args:
            values: of the documents, n; NaN where a document alone has none.
            items: what else the aggregation needs of each, as `packing.pack` writes it; n. A mean needs nothing; of
                anything else a document without an item does not count.
        """
        there = self.counted(values, items)
        if not there.any():
            return math.nan
        if self.is_mean:
            return math.fsum(values[there]) / int(there.sum())
        return float(self.resampled(values, items, np.ones((1, len(values))))[0])

    def stderr(self, values: Floats, items: Sequence[str | None]) -> float:
        """The standard error of `of`; NaN below two documents that count.

        Of a mean s / sqrt(n), with s the sample standard deviation. Of anything else the jackknife's (Efron and
        Tibshirani, An Introduction to the Bootstrap, 1993, equation 11.5), over documents left out one at a time, or,
        for a function of more than `CORPUS_RESAMPLES` documents, in as many groups (section 11.4 with groups as the
        observations).
        """
        there = np.flatnonzero(self.counted(values, items))
        n = len(there)
        if n < 2:
            return math.nan
        values, items = values[there], [items[int(place)] for place in there]
        if self.is_mean:
            mean = self.of(values, items)
            return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
        if self.link is not None:
            parts = _parts(items)
            left_out = self._linked(parts.sum(axis=0) - parts)
        else:
            groups = np.arange(min(n, CORPUS_RESAMPLES))[:, None]
            left_out = self.resampled(values, items, (np.arange(n) % len(groups) != groups).astype(np.float64))
        spread = math.fsum((left_out - left_out.mean()) ** 2)
        return math.sqrt((len(left_out) - 1) / len(left_out) * spread)

    def resampled(self, values: Floats, items: Sequence[str | None], counts: Floats) -> Floats:
        """The numbers of several samples with replacement.

        Args:
            values: as in `of`.
            items: as in `of`.
            counts: how often each document is in each sample, R x n, whole numbers.

        Returns:
            R numbers; NaN for a sample without a document that counts.
        """
        there = np.flatnonzero(self.counted(values, items))
        values, counts, items = values[there], counts[:, there], [items[int(place)] for place in there]
        if self.corpus is not None:
            loaded = [unpack(str(item)) for item in items]
            return np.array([self._of_corpus(loaded, row) for row in counts])
        if self.link is not None:
            return self._linked(counts @ _parts(items))
        with np.errstate(invalid="ignore"):
            return np.asarray(counts @ values / counts.sum(axis=1))

    def _linked(self, sums: Floats) -> Floats:
        assert self.link is not None
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return self.link(sums[:, 0] / sums[:, 1])

    def _of_corpus(self, items: Sequence[Any], counts: Floats) -> float:
        assert self.corpus is not None
        drawn = [item for item, count in zip(items, counts, strict=True) for _ in range(int(count))]
        if not drawn:
            return math.nan
        with contextlib.redirect_stdout(sys.stderr):  # a task's function may print; standard output is not its place
            return float(self.corpus(drawn))


def _parts(items: Sequence[str | None]) -> Floats:
    return np.array([json.loads(str(item)) for item in items], dtype=np.float64).reshape(-1, 2)


MEAN = Aggregation("mean")
