"""Linear combinations of base and experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.engine.kernels import Prepared, Rows, Source, kernel_of
from evomerge.engine.plan import Combination
from evomerge.engine.random_bits import Keys


@dataclass(frozen=True)
class CombinationForm:
    """sum_j c_j s_j, added in the order of the sources."""

    sources: tuple[Source, ...]
    by_row: bool = False

    @property
    def signature(self) -> object:
        """The number of sources says it all."""
        return type(self), len(self.sources)

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The coefficients, float32 [r, j]."""
        return (table.float()[rows.parameter],)

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum."""
        (coefficients,) = numbers
        result = chunks[0].float() * coefficients[:, :1]
        for j, chunk in enumerate(chunks[1:], 1):
            result = result + chunk.float() * coefficients[:, j : j + 1]
        return result


@kernel_of(Combination)
def _combination(plan: Combination, keys: Keys, seed: int) -> Prepared:
    coefficients = (plan.base, *plan.experts)
    by_row = any(isinstance(c, np.ndarray) for c in coefficients)
    active = tuple(i for i, c in enumerate(coefficients) if isinstance(c, np.ndarray) or c != 0.0) or (0,)
    entry = np.stack(np.broadcast_arrays(*(np.asarray(coefficients[i], dtype=np.float64) for i in active)), axis=-1)
    return Prepared(CombinationForm(active, by_row), entry)
