"""How single documents' results become one number: a mean, a ratio of sums, or any function of all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CORPUS_RESAMPLES = 200  # a function of all documents is not cheap: fewer resamples than a mean gets


@dataclass(frozen=True, slots=True)
class Aggregation:
    """From the results of n documents to one number.

    Attributes:
        name: "mean", "ratio" or the function's name; two aggregations of one name are equal.
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

    def of(self, values: Floats, items: Sequence[str | None]) -> float:
        """The number of these documents; NaN without any.

        Args:
            values: of the documents, n; one with NaN does not count.
            items: what else the aggregation needs of each, as JSON; n. A mean needs nothing.
        """
        there = ~np.isnan(values)
        if not there.any():
            return math.nan
        if self.is_mean:
            return math.fsum(values[there]) / int(there.sum())
        return float(self.resampled(values, items, np.ones((1, len(values))))[0])

    def resampled(self, values: Floats, items: Sequence[str | None], counts: Floats) -> Floats:
        """The numbers of several samples with replacement.

        Args:
            values: as in `of`.
            items: as in `of`.
            counts: how often each document is in each sample, R x n, whole numbers.

        Returns:
            R numbers.
        """
        there = np.flatnonzero(~np.isnan(values))
        values, counts, items = values[there], counts[:, there], [items[int(place)] for place in there]
        if self.link is not None:
            parts = np.array([json.loads(str(item)) for item in items], dtype=np.float64)
            sums = counts @ parts
            return self.link(sums[:, 0] / sums[:, 1])
        if self.corpus is not None:
            loaded = [json.loads(str(item)) for item in items]
            return np.array([self._of_corpus(loaded, row) for row in counts])
        return np.asarray(counts @ values / counts.sum(axis=1))

    def _of_corpus(self, items: Sequence[Any], counts: Floats) -> float:
        assert self.corpus is not None
        return float(self.corpus([item for item, count in zip(items, counts, strict=True) for _ in range(int(count))]))


MEAN = Aggregation("mean")
