"""Tensors over memory that is mapped from files, read-only, and its use by GPUs."""

from __future__ import annotations

import contextlib
import logging
import warnings
import weakref

import numpy as np
import torch

from evomerge.engine.checkpoint import first_line

logger = logging.getLogger(__name__)

READ_ONLY = 8
"""cudaHostRegisterReadOnly: CUDA pins pages that the process may not write only when it is told so."""


def tensor_over(contents: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """A 1-D tensor of that dtype over the same memory, uint8. Where that is mapped read-only, writing is a crash."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(contents).view(dtype)


def pin(contents: np.ndarray) -> bool:
    """Have CUDA pin mapped memory, so that copies to a GPU are fast and are not waited for.

    Args:
        contents: begins with a page; stays pinned until nothing refers to it any more.

    Returns:
        Whether it did; otherwise copies go through a buffer of CUDA's, and give the same.
    """
    address = contents.ctypes.data
    try:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, contents.nbytes, READ_ONLY))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        logger.warning("shared memory cannot be pinned, and copies to the GPU are slower: %s", first_line(error))
        _forget_error()
        return False
    weakref.finalize(contents, _unpin, address)  # of the array, not of the mapping: that one tells too late
    return True


def _unpin(address: int) -> None:
    """Let go of memory before it is unmapped, once no copy reads it any more."""
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]


def _forget_error() -> None:
    """Run a kernel, which is blamed for CUDA's last error, so that the next one is not."""
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")
