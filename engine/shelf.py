"""Arrays that processes of one host compute once for all of them: a shared file that grows, one record at a time.

A process looks for an array, computes it where there is none, and puts it there for the others. Two that need the
same one at the same moment both compute it, which costs a little time and spares every process from waiting for one
that was stopped. A record counts once the file's end lies behind it, so that one left half-written is written over.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from evomerge.engine.sharing import DATA, SUPPORTED, Held, Sharing, write

if SUPPORTED:
    import fcntl

CAPACITY = 2**32
"""Bytes that a shelf can hold; it takes as much as is written."""

ALIGNED = 64
"""Bytes; records and arrays begin at multiples."""

END = struct.Struct("<Q")
"""The first thing in a shelf: where its last record ends. The first record begins at `ALIGNED`."""

HEAD = struct.Struct("<QII")
"""Of a record: its bytes in all, those of the JSON that follows, and their checksum."""

PATIENCE = 1.0
"""Seconds that a process tries to write before it keeps an array to itself."""


class Shelf:
    """Arrays by name.

    Args:
        held: a sparse shared file of `CAPACITY` bytes, as `open_shelf` makes it.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self._seen = ALIGNED
        self._found: dict[str, list[np.ndarray]] = {}
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def get(self, name: str) -> list[np.ndarray] | None:
        """The arrays of that name, mapped read-only; None where no process has put any."""
        if name not in self._found:
            with self._lock:
                self._look()
        return self._found.get(name)

    def put(self, name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Give arrays to all processes; those of the first to do so count.

        Returns:
            What `get` gives from now on; None where the shelf is full, or another process does not let go of it.
        """
        with self._lock, self._sole() as sole:
            if sole and os.getpid() == self._owner:  # a fork would share its parent's lock
                self._look()
                if name not in self._found:
                    self._append(name, arrays)
                    self._look()
        return self._found.get(name)

    def _look(self) -> None:
        """Find the records that were added since the last look."""
        (end,) = END.unpack(self._read(END.size, 0))
        while self._seen < end:
            size, length, check = HEAD.unpack(self._read(HEAD.size, self._seen))
            text = self._read(length, self._seen + HEAD.size)
            if zlib.crc32(text) != check:
                return
            name, arrays = json.loads(text)
            self._found.setdefault(name, [self._array(self._seen, *each) for each in arrays])
            self._seen += size

    def _array(self, start: int, dtype: str, shape: list[int], offset: int) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self._held.contents.data, dtype, count, start + offset).reshape(shape)

    def _append(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Write a record, and then that it is there."""
        room = HEAD.size + len(json.dumps(name)) + 100 * (len(arrays) + 1)  # the JSON takes less
        places: list[tuple[str, tuple[int, ...], int]] = []
        size = _aligned(room)
        for array in arrays:
            places.append((array.dtype.str, array.shape, size))
            size = _aligned(size + array.nbytes)
        text = json.dumps([name, places]).encode()
        if self._seen + size > CAPACITY:
            return
        try:
            for array, (_, _, offset) in zip(arrays, places, strict=True):
                self._write(np.ascontiguousarray(array).tobytes(), self._seen + offset)
            self._write(HEAD.pack(size, len(text), zlib.crc32(text)) + text, self._seen)
            self._write(END.pack(self._seen + size), 0)
        except OSError:  # no space left
            return

    def _read(self, nbytes: int, offset: int) -> bytes:
        return os.pread(self._held.descriptor, nbytes, DATA + offset)

    def _write(self, data: bytes, offset: int) -> None:
        write(self._held.descriptor, data, DATA + offset)

    @contextmanager
    def _sole(self) -> Iterator[bool]:
        """Whether no other process writes within the block. The lock is the open file's, not the process's."""
        until = time.monotonic() + PATIENCE
        taken = False
        while not (taken := self._set(fcntl.F_WRLCK)) and time.monotonic() < until:
            time.sleep(0.001)
        try:
            yield taken
        finally:
            if taken:
                self._set(fcntl.F_UNLCK)

    def _set(self, kind: int) -> bool:
        flock = struct.pack("hhqqi4x", kind, 0, 0, 1, 0)  # struct flock: the file's first byte
        try:
            fcntl.fcntl(self._held.descriptor, fcntl.F_OFD_SETLK, flock)
        except (BlockingIOError, PermissionError):  # EAGAIN, EACCES
            return False
        return True


def open_shelf(sharing: Sharing, name: str) -> Shelf | None:
    """The shelf of that name; None where there is none to be had."""
    if not SUPPORTED or not hasattr(fcntl, "F_OFD_SETLK"):
        return None
    held = sharing.hold(name, CAPACITY, _blank, sparse=True)
    return None if held is None else Shelf(held)


def _blank(contents: np.ndarray, alive: object) -> dict[str, object]:
    contents[: END.size] = np.frombuffer(END.pack(ALIGNED), np.uint8)
    return {}


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNED) * ALIGNED
