"""Parameters of sources, read piece by piece from their files straight into memory that the caller owns.

Files are read with positioned reads and never mapped, so that memory holds each weight once, where it is used.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from evomerge.engine.headers import TensorHeader
from evomerge.errors import InputError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that weights may have, by the names of the safetensors format."""


class Reading(Protocol):
    """One parameter of one source.

    Attributes:
        shape: of the parameter; in an alignment the candidate's.
        dtype: the stored one; float32 where it is computed (a low-rank term). Never converted in between.
        computed: whether reading it costs more than reading the file.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    @property
    def computed(self) -> bool: ...  # noqa: D102

    def fill(self, out: torch.Tensor, start: int) -> None:
        """Write elements [start, start + out.numel()) of the flattened parameter into `out`.

        What is written does not depend on where a piece begins and ends. Threads may fill at the same time.

        Args:
            out: 1-D, on CPU, contiguous, of `dtype`.
            start: the position of its first element.

        Raises:
            InputError: the file cannot be read, or has become shorter.
        """


class WeightFile:
    """One file, opened on the first read, and closed when nothing refers to this object any more.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def read_into(self, out: memoryview, offset: int) -> None:
        """Fill `out`, writable bytes, from `offset` on. Raises InputError when the file gives fewer."""
        done = 0
        while done < len(out):
            try:
                count = os.preadv(self._open(), [out[done:]], offset + done)
            except OSError as error:
                raise InputError(f"{self.path} must be readable, but: {error.strerror}") from None
            if count == 0:
                raise InputError(
                    f"{self.path} must hold {offset + len(out)} bytes, but holds {os.fstat(self._open()).st_size}: "
                    f"it was changed since it was opened"
                )
            done += count

    def _open(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor


@dataclass(frozen=True, eq=False)
class StoredReading:
    """A tensor as a file holds it."""

    file: WeightFile
    header: TensorHeader
    computed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.header.shape

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return DTYPES[self.header.dtype]

    def fill(self, out: torch.Tensor, start: int) -> None:
        """As `Reading.fill`."""
        if out.numel():
            self.file.read_into(out.view(torch.uint8).numpy().data, self.header.offset + start * out.element_size())


@dataclass(frozen=True, eq=False)
class ZeroReading:
    """A parameter that counts as zeros."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    computed: bool = False

    def fill(self, out: torch.Tensor, start: int) -> None:
        """As `Reading.fill`."""
        out.zero_()


def whole(reading: Reading) -> torch.Tensor:
    """The whole parameter, in its own shape and dtype, in memory of its own."""
    out = torch.empty(math.prod(reading.shape), dtype=reading.dtype)
    reading.fill(out, 0)
    return out.view(reading.shape)


def equal(one: Reading, other: Reading, chunk: int = 2**22) -> bool:
    """Whether both hold the same values in the same shape and dtype. Reads up to the first piece that differs."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    numel = math.prod(one.shape)
    buffers = [torch.empty(min(chunk, numel), dtype=one.dtype) for _ in range(2)]
    for start in range(0, numel, chunk):
        left, right = (buffer[: numel - start] for buffer in buffers)
        one.fill(left, start)
        other.fill(right, start)
        if not torch.equal(left, right):
            return False
    return True
