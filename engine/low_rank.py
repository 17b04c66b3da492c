"""W + scale * B A, computed block by block as it is read: only the factors are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property

import torch

from evomerge.engine.readings import Reading, whole

BLOCK = 2**18
"""Elements of a block of rows, which is always computed by the same call, whatever piece of it is asked for."""

KEPT = 32
"""Blocks that each thread keeps: pieces of many sources are asked for in turn."""


class LowRankReading:
    """A weight with a low-rank term, in float32.

    Args:
        weight: W, [out, in]; or [in, out] if `transpose`.
        a, b: A is [r, in], B is [out, r].
        scale: of the term.
        transpose: whether (B A)^T is added rather than B A.
    """

    dtype = torch.float32
    computed = True

    def __init__(self, weight: Reading, a: Reading, b: Reading, scale: float, transpose: bool) -> None:
        self.shape = weight.shape
        self._weight, self._a, self._b = weight, a, b
        self._scale, self._transpose = scale, transpose
        self._rows = max(1, BLOCK // max(1, self.shape[1]))

    def fill(self, out: torch.Tensor, start: int) -> None:
        """As `Reading.fill`."""
        step = self._rows * self.shape[1]
        done = 0
        while done < out.numel():
            number, inside = divmod(start + done, step)
            piece = self._kept(number).view(-1)[inside : inside + out.numel() - done]
            out[done : done + piece.numel()].copy_(piece)
            done += piece.numel()

    def _kept(self, number: int) -> torch.Tensor:
        blocks = _blocks.kept
        block = blocks.pop((self, number), None)
        blocks[self, number] = block = self._block(number) if block is None else block
        if len(blocks) > KEPT:
            blocks.popitem(last=False)
        return block

    def _block(self, number: int) -> torch.Tensor:
        first, (a, b) = number * self._rows, self._factors
        rows = slice(first, min(first + self._rows, self.shape[0]))
        weight = torch.empty((rows.stop - first) * self.shape[1], dtype=self._weight.dtype)
        self._weight.fill(weight, first * self.shape[1])
        delta = (b @ a[:, rows]).T if self._transpose else b[rows] @ a
        return weight.view(-1, self.shape[1]).float() + delta * self._scale

    @cached_property
    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return whole(self._a).float(), whole(self._b).float()


class _Blocks(threading.local):
    """Each thread's blocks, the longest unused first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[LowRankReading, int], torch.Tensor] = OrderedDict()


_blocks = _Blocks()
