"""DELLA's masks as critical densities (Deep et al. 2024, arXiv:2406.11617).

DELLA keeps an element with probability p = density - epsilon + 2 epsilon (rank - 1) / (columns - 1), where rank
orders abs(d) inside each row of the parameter, ascending (section 3.1). With u the element's random number in
[0, 1), u < p holds iff u + epsilon - 2 epsilon (rank - 1) / (columns - 1) < density. The left side, the element's
critical density, does not depend on the density: it is computed once, kept in 16 bits, and a candidate costs one
comparison. Elements of equal magnitude are ranked by their position.
"""

from __future__ import annotations

import torch

UNITS = 2**14
"""Critical densities lie in [-1, 2) and are kept in units of 1 / UNITS."""


def critical_densities(delta: torch.Tensor, columns: int, word: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The density from which on each element survives.

    Args:
        delta: float32 [rows * columns]; the task vector.
        columns: elements a row.
        word: int64 [rows * columns] in [0, 2^32).
        epsilon: half the width of the range of probabilities.

    Returns:
        int16 [rows * columns]: critical densities in units of 2^-14, rounded.
    """
    share = ranks(delta.abs().view(-1, columns)).double().view(-1) / max(columns - 1, 1)
    return ((word.double() / 2**32 + epsilon - 2.0 * epsilon * share) * UNITS).round().short()


def ranks(magnitudes: torch.Tensor) -> torch.Tensor:
    """The place of each element in its row, ascending from 0; equal ones in the order of their positions.

    Args:
        magnitudes: float32 [rows, columns], none negative.

    Returns:
        int32 [rows, columns].
    """
    columns = magnitudes.shape[1]
    place = torch.arange(columns, dtype=torch.int32, device=magnitudes.device).expand_as(magnitudes)
    if magnitudes.device.type == "cpu":  # numbers made of bits and position are sorted faster than positions are
        keys = (magnitudes.view(torch.int32).long() << 32) | torch.arange(columns)
        keys.numpy().sort(axis=1)
        order = keys & (2**32 - 1)
    else:
        order = magnitudes.argsort(dim=1, stable=True)
    return torch.empty_like(place, memory_format=torch.contiguous_format).scatter_(1, order, place)


def survives(critical: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Whether each element survives. Args: critical: int16; density: float32 numbers that broadcast to it."""
    return critical.int() < (density * UNITS).ceil().int()
