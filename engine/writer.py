"""Safetensors written as a stream: the header first, from names, dtypes and shapes; then each tensor's bytes, piece by
piece, so that no more than a piece has to be in memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The format's names of dtypes."""

PIECE = 2**26
"""Bytes that are copied from a device and written at a time."""


HASHERS = 2
HELD = 4
"""Pieces that wait to be hashed, at most."""


class TensorSpec(NamedTuple):
    """A tensor to be written: its name, dtype and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that its data take."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


Pieces = Callable[[str], Iterator[torch.Tensor]]
"""The data of the tensor of that name, in order: 1-D pieces on any device."""


def write_shards(folder: Path, specs: Sequence[TensorSpec], pieces: Pieces, max_shard_size: int) -> str:
    """Write tensors to one file or several, with the index that transformers reads.

    Args:
        folder: exists.
        specs: of all tensors.
        pieces: gives their data.
        max_shard_size: bytes of data in a file; a larger tensor has a file of its own.

    Returns:
        The digest of the weights, as `weights_digest` computes it.

    Raises:
        OSError: a file cannot be written.
    """
    shards = _shards(specs, max_shard_size)
    names = [SINGLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    digests: dict[str, bytes] = {}
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb", buffering=0) as file:
            digests |= _write(file, shard, pieces)
            os.fsync(file.fileno())
    if len(shards) > 1:
        places = {spec.name: name for name, shard in zip(names, shards, strict=True) for spec in shard}
        total = sum(spec.nbytes for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return combine(specs, digests)


def combine(specs: Sequence[TensorSpec], digests: dict[str, bytes]) -> str:
    """SHA-256 over name, dtype, shape and SHA-256 of the data of each tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name, dtype, shape in sorted(specs, key=lambda spec: spec.name):
        digest.update(f"{name}\0{dtype}\0{shape}\0".encode() + digests[name])
    return digest.hexdigest()


def as_bytes(piece: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on CPU."""
    return piece.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def split(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor in 1-D pieces on CPU."""
    flat = tensor.detach().reshape(-1)
    step = max(PIECE // tensor.element_size(), 1)
    for start in range(0, flat.numel(), step):
        yield flat[start : start + step].cpu()


def _shards(specs: Sequence[TensorSpec], max_shard_size: int) -> list[list[TensorSpec]]:
    """Tensors in the order given, cut where a shard would grow too large; at least one shard."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if shards[-1] and size + spec.nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def _shard_name(position: int, count: int) -> str:
    return f"model-{position + 1:05d}-of-{count:05d}.safetensors"


def _write(file: BinaryIO, shard: Sequence[TensorSpec], pieces: Pieces) -> dict[str, bytes]:
    """One file; returns the SHA-256 of each tensor's data. Wide dtypes come first, so that all are aligned."""
    ordered = sorted(shard, key=lambda spec: -spec.dtype.itemsize)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in ordered:
        offsets = [end, end := end + spec.nbytes]
        header[spec.name] = {"dtype": NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _write_all(file, memoryview(len(text).to_bytes(8, "little") + text))
    with Hasher() as hasher:
        for spec in ordered:
            _write_tensor(file, spec, pieces(spec.name), hasher)
        return hasher.digests()


class Hasher:
    """SHA-256 of many tensors, taken in threads of its own while they are written; a context manager."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(HASHERS)
        self._open: dict[str, tuple[Any, Future[None] | None]] = {}
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Hasher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def add(self, name: str, data: memoryview | None) -> None:
        """Hash the next bytes of a tensor; None begins it. Waits while too many pieces are held."""
        digest, before = self._open.get(name) or (hashlib.sha256(), None)
        if data is not None:
            while len(self._waiting) >= HELD:
                self._waiting.popleft().result()
            before = self._pool.submit(_update, digest, data, before)
            self._waiting.append(before)
        self._open[name] = digest, before

    def digests(self) -> dict[str, bytes]:
        """Of all tensors, by name."""
        for job in self._waiting:
            job.result()
        return {name: digest.digest() for name, (digest, _) in self._open.items()}


def _update(digest: Any, data: memoryview, before: Future[None] | None) -> None:
    if before is not None:
        before.result()  # pieces of one tensor are hashed in order; this one was handed in earlier, so it is under way
    digest.update(data)


def _write_tensor(file: BinaryIO, spec: TensorSpec, pieces: Iterator[torch.Tensor], hasher: Hasher) -> None:
    hasher.add(spec.name, None)
    written = 0
    for piece in pieces:
        data = as_bytes(piece)
        hasher.add(spec.name, data)
        _write_all(file, data)
        written += len(data)
    if written != spec.nbytes:
        raise ValueError(f"{spec.name} must have {spec.nbytes} bytes, but {written} were given")


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
