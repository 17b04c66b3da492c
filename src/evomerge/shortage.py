"""Memory that ran out: how PyTorch's errors say so."""

from __future__ import annotations

import torch

SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""What errors say when an allocation failed, besides those of a type of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of a device or of the host ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
