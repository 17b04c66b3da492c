"""Rows of tokens as one padded batch, and how many rows make a batch whose logits fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LOGITS = 2**26  # numbers in a batch's logits: 256 MB in float32


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both int64 [B, T] with T the longest row's length; padding is token 0, masked out."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def rows_that_fit(rows: Sequence[Sequence[int]], vocabulary: int, most: int) -> int:
    """How many rows go through a model at a time: one at least, `most` at most, and no more than `LOGITS` allows.

    Args:
        rows: all that are to go through.
        vocabulary: numbers in the logits of one position.
        most: the batch size.
    """
    longest = max(map(len, rows), default=1)
    return max(1, min(most, LOGITS // (longest * vocabulary)))
