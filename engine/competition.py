"""The scores of PCB-Merging (Du et al. 2024, arXiv:2410.02396, section 3.2), in float32 arithmetic that no compiler
or device does differently.

With Norm the map of a vector's smallest and largest element to 0 and 1, expert i's score of an element is
softmax(n Norm(d_i^2)) * sum_j softmax(Norm(d_i d_j)). Each softmax is a constant times an exponential, so the score
is a constant, the level, times (1 + a) (1 + sum_j q_j b_j) with a = expm1(n Norm(d_i^2)), b_j = expm1((d_i d_j - c_j)
/ range_j), c_j the product nearest to zero and weights q_j that sum to 1. What is ranked is the excess
a + b + a b with b = sum_j q_j b_j: it tells scores of tiny elements apart, which all round to the same level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from evomerge.engine.plan import Competition, doublings, pairs

TERMS = 12
"""Of the exponential series; for arguments up to 1 the rest is below float32's resolution."""


class Columns(NamedTuple):
    """A `Competition` as float32 tensors that broadcast to the task vectors."""

    lowest: Sequence[torch.Tensor]
    strength: Sequence[torch.Tensor]
    center: Sequence[torch.Tensor]
    inverse: Sequence[torch.Tensor]
    share: Sequence[Sequence[torch.Tensor]]


def columns_of(competition: Competition, device: torch.device) -> Columns:
    """The columns for one parameter, each 0-d."""

    def each(numbers: Sequence[float]) -> list[torch.Tensor]:
        return list(torch.tensor(numbers, dtype=torch.float32, device=device))

    c = competition
    rows = [each(row) for row in c.share]
    return Columns(each(c.lowest), each(c.strength), each(c.center), each(c.inverse), rows)


def own_part(delta: torch.Tensor, lowest: torch.Tensor, strength: torch.Tensor, experts: int) -> torch.Tensor:
    """a: expm1(n Norm(d^2)), by doublings of expm1(n Norm(d^2) / 2^m)."""
    result = expm1((delta * delta - lowest) * strength)
    for _ in range(doublings(experts)):
        result = result * (result + 2.0)
    return result


def shared_part(one: torch.Tensor, two: torch.Tensor, center: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """b_j of a pair of task vectors."""
    return expm1((one * two - center) * inverse)


def excess(
    i: int, deltas: Sequence[torch.Tensor], columns: Columns, memo: dict[tuple[int, int], torch.Tensor]
) -> torch.Tensor:
    """The excess of expert i: float32, of the task vectors' shape; its score is the level times (1 + this).

    Args:
        i: the expert.
        deltas: of all who compete.
        columns: the numbers.
        memo: keeps what several experts need; give the same dict for all of them, or an empty one.
    """
    order = pairs(len(deltas))
    together = torch.zeros_like(deltas[i])
    for j in range(len(deltas)):
        pair = (min(i, j), max(i, j))
        if pair not in memo:
            place = order.index(pair)
            first, second = (deltas[k] for k in pair)
            memo[pair] = shared_part(first, second, columns.center[place], columns.inverse[place])
        together = together + memo[pair] * columns.share[i][j]
    alone = own_part(deltas[i], columns.lowest[i], columns.strength[i], len(deltas))
    return alone + together + alone * together


def expm1(x: torch.Tensor) -> torch.Tensor:
    """e^x - 1 for abs(x) <= 1, from its series."""
    total = 1.0 + x * (1.0 / TERMS)
    for k in range(TERMS - 1, 1, -1):
        total = 1.0 + (x * (1.0 / k)) * total
    return x * total
