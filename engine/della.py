"""DELLA's masks as critical densities (Deep et al. 2024, arXiv:2406.11617).

DELLA keeps an element with probability p = density - epsilon + 2 epsilon (rank - 1) / (columns - 1), where rank
orders abs(d) inside each row of the parameter, ascending (section 3.1). With u the element's random number in
[0, 1), u < p holds iff u + epsilon - 2 epsilon (rank - 1) / (columns - 1) < density. The left side, the element's
critical density, does not depend on the density: it is computed once, kept as float16, and a candidate costs one
comparison. Elements of equal magnitude are ranked by their position.
"""

from __future__ import annotations

import torch


def critical_densities(delta: torch.Tensor, columns: int, word: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The density from which on each element survives.

    Args:
        delta: float32 [rows * columns]; the task vector.
        columns: elements a row.
        word: int64 [rows * columns] in [0, 2^32).
        epsilon: half the width of the range of probabilities.

    Returns:
        float16 [rows * columns].
    """
    order = delta.abs().view(-1, columns).argsort(dim=1, stable=True)
    place = torch.arange(columns, dtype=torch.int32, device=delta.device).expand_as(order)
    rank = torch.empty_like(place, memory_format=torch.contiguous_format).scatter_(1, order, place)
    share = rank.double().view(-1) / max(columns - 1, 1)
    return (word.double() / 2**32 + epsilon - 2.0 * epsilon * share).half()


def survives(critical: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Whether each element survives. Args: critical: float16; density: float32 numbers that broadcast to it."""
    return critical.float() < density
