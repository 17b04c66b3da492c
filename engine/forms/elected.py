"""SCE: positions selected by variance, signs elected, what agrees averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.engine.forms.common import PlainForm, elected, summed, task_vectors_of, threshold
from evomerge.engine.kernels import Prepared, Rows, kernel_of
from evomerge.engine.plan import Cut, Elected
from evomerge.engine.random_bits import Keys
from evomerge.engine.scores import variance


@dataclass(frozen=True)
class ElectedForm(PlainForm):
    """As `Elected` defines it.

    Attributes:
        sources: the base and n experts.
        select: whether positions are selected.
    """

    select: bool

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """float32 [r, 2 + n]: scale, the variance to exceed, weights."""
        floor = threshold(table[:, None, 2:4], table[:, 1:2], rows)
        scale, weights = table[:, :1].float()[rows.parameter], table[:, 4:].float()[rows.parameter]
        return (torch.cat([scale, floor, weights], dim=1),)

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the merged task vector."""
        (floats,) = numbers
        base, deltas = task_vectors_of(chunks)
        if self.select:
            chosen = variance(deltas) > floats[:, 1:2]
            deltas = [torch.where(chosen, delta, 0.0) for delta in deltas]
        weights = [floats[:, 2 + i : 3 + i] for i in range(len(deltas))]
        terms = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
        return base + elected(deltas, terms, summed(deltas), weights) * floats[:, :1]


@kernel_of(Elected)
def _elected(plan: Elected, keys: Keys, seed: int) -> Prepared:
    form = ElectedForm(tuple(range(len(plan.weights) + 1)), plan.floor is not None)
    floor = plan.floor or Cut(0.0)
    return Prepared(form, np.array([plan.scale, keys.element.high, *floor, *plan.weights]))
