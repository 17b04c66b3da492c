"""What kernels share: thresholds whose ties are settled by row, election of signs, and the plainest kind of form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from evomerge.engine.kernels import Rows, Source
from evomerge.engine.plan import NO_DIRECTION, Cut
from evomerge.engine.random_bits import row_word

TINY = 1e-25
"""A sum of task vectors smaller than this counts as zero when a sign is elected."""

KEEPS_ALL = Cut(float("-inf"))
"""What no number lies below."""


@dataclass(frozen=True)
class PlainForm:
    """A form whose numbers are its table, as float32, and which works on the arena's rows.

    Attributes:
        sources: the base and the experts.
    """

    sources: tuple[Source, ...]
    by_row = False

    @property
    def signature(self) -> object:
        """Everything but which sources they are; their number."""
        return replace(self, sources=tuple(range(len(self.sources))))

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The rows' entries in the table, float32 [r, k]."""
        return (table.float()[rows.parameter],)


def task_vectors_of(chunks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The base and the task vectors, float32, from a chunk of the base and of each expert."""
    base = chunks[0].float()
    return base, [chunk.float() - base for chunk in chunks[1:]]


def threshold(numbers: torch.Tensor, key: torch.Tensor, rows: Rows) -> torch.Tensor:
    """What an element must exceed to be among the largest, one for each row.

    Args:
        numbers: float64 [p, n, 2]; cuts.
        key: float64 [p, n]; of the rows' words.
        rows: r of them.

    Returns:
        float32 [r, n].
    """
    word = row_word(key.long()[rows.parameter], rows.number[:, None])
    value = numbers[..., 0].float()
    below = torch.nextafter(value, torch.full_like(value, -torch.inf))
    lucky = word < numbers[..., 1].long()[rows.parameter]
    return torch.where(lucky, below[rows.parameter], value[rows.parameter])


def summed(terms: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum, added in order."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def elected(
    deltas: Sequence[torch.Tensor],
    terms: Sequence[torch.Tensor],
    total: torch.Tensor,
    weights: Sequence[torch.Tensor] | None,
) -> torch.Tensor:
    """sum_i m_i term_i, with m_i = [sign delta_i == sign total]; divided by sum_i m_i weight_i if there are weights."""
    total = total + TINY
    agree = [delta * total > 0.0 for delta in deltas]
    merged = summed([torch.where(mask, term, 0.0) for mask, term in zip(agree, terms, strict=True)])
    if weights is None:
        return merged
    return divided(merged, summed([torch.where(m, w, 0.0) for m, w in zip(agree, weights, strict=True)]))


def divided(merged: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """merged / divisor; a divisor of nearly 0 counts as 1."""
    return merged / torch.where(divisor.abs() < NO_DIRECTION, 1.0, divisor)
