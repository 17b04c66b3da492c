"""Batches that fit into memory: one that does not is halved, and later ones stay at the smaller size."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from evomerge.errors import CandidateError
from evomerge.shortage import is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@dataclass
class BatchLimit:
    """The most items that go through a model at once; shared by all that runs on one device.

    Attributes:
        size: items in a batch, at least 1; halved for good whenever a batch does not fit into memory.
    """

    size: int


def in_batches(run: Callable[[Sequence[T]], list[R]], items: Sequence[T], limit: BatchLimit) -> list[R]:
    """`run` over all items in order, `limit.size` at a time.

    Where a batch runs out of memory, the limit is halved, once more if need be, and the batch is run again in parts.

    Args:
        run: from some items to as many results; must be repeatable.
        items: any number.
        limit: changed in place.

    Raises:
        CandidateError: one item alone does not fit into memory.
    """
    results: list[R] = []
    while len(results) < len(items):
        part = items[len(results) : len(results) + limit.size]
        done = _attempt(run, part)
        if done is None:
            _halve(limit, len(part))
        else:
            results.extend(done)
    return results


def _attempt(run: Callable[[Sequence[T]], list[R]], part: Sequence[T]) -> list[R] | None:
    """None: out of memory. The error is let go of here, as its frames hold the tensors that filled the memory."""
    try:
        return run(part)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return None


def _halve(limit: BatchLimit, rows: int) -> None:
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if rows <= 1:
        raise CandidateError("out of memory with batch_size 1; take a device with more memory or a lower max_length")
    limit.size = rows // 2
    log.warning("a batch of %d does not fit into memory: batches of %d from here on", rows, limit.size)
