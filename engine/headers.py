"""Headers of safetensors files, read and checked before any weight is. No torch here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import InputError
from evomerge.plain import parse_json

MAX_HEADER = 100_000_000
MAX_NAME = 1_000
MAX_AXES = 64
MAX_NUMBER = 2**63

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits an element takes, by the format's names of dtypes."""

MERGEABLE = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that weights may have."""


class TensorHeader(NamedTuple):
    """What a header says of one tensor.

    Attributes:
        shape: of the tensor.
        dtype: by the format's name ("BF16").
        offset: where its data begin, in bytes from the start of the file.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        """How many bytes its data take."""
        return -(-math.prod(self.shape) * BITS[self.dtype] // 8)


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of one safetensors file.

    The header must describe the file exactly: names that can be printed, known dtypes, sizes that follow from the
    shapes, and data that cover the rest of the file without gaps or overlaps.

    Raises:
        InputError: the file is missing, truncated or not safetensors, or its header lies.
    """
    text, size = _read(path)
    entries = parse_json(text, f"{path} must be a safetensors file with a header in JSON")
    if not isinstance(entries, dict):
        raise InputError(f"{path} must be a safetensors file, but its header is no mapping")
    entries.pop("__metadata__", None)
    spans = [_span(path, name, entry) for name, entry in entries.items()]
    _check_cover(path, sorted(spans), size - 8 - len(text))
    return {
        name: TensorHeader(tuple(entry["shape"]), entry["dtype"], 8 + len(text) + entry["data_offsets"][0])
        for name, entry in entries.items()
    }


def _read(path: Path) -> tuple[bytes, int]:
    """The header's text, and the size of the file."""
    try:
        if not path.is_file():
            raise InputError(f"{path} must be a file, but is none")
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise InputError(
                    f"{path} must be a safetensors file, but is truncated or none: its header would take "
                    f"{length} bytes of {size}"
                )
            return file.read(length), size
    except OSError as error:
        raise InputError(f"{path} must be readable, but: {error.strerror}") from None


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """(begin, end, name) of one tensor's data."""
    if not name.isprintable() or len(name) > MAX_NAME:
        raise InputError(f"{path}: names of tensors must be short and printable, but one is {name!r:.100}")
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = isinstance(shape, list) and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"{path}: the header of {name} must give dtype, shape and data_offsets, but is {entry!r:.200}")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InputError(f"{path}: the dtype of {name} must be one that safetensors has, but is {dtype!r:.100}")
    _check_numbers(path, name, shape, (begin, end))
    need = TensorHeader(tuple(shape), dtype, 0).nbytes
    if end - begin != need:
        raise InputError(
            f"{path}: {name} must take {need} bytes for {dtype} {list(shape)}, but its offsets span {end - begin}"
        )
    return begin, end, name


def _check_numbers(path: Path, name: str, shape: list[int], offsets: tuple[int, int]) -> None:
    """Sizes and offsets must be numbers of 63 bits, and so must what a shape multiplies to, empty axes left out."""
    if len(shape) > MAX_AXES or any(number >= MAX_NUMBER for number in (*shape, *offsets)):
        raise InputError(f"{path}: {name} must have at most {MAX_AXES} axes, and sizes and offsets below 2^63")
    if math.prod(size for size in shape if size) >= MAX_NUMBER:
        raise InputError(f"{path}: {name} must have less than 2^63 elements, but has the shape {shape!r:.100}")


def _check_cover(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise InputError(
                f"{path}: data must have no gaps or overlaps, but {name} begins at {begin}, not {position}"
            )
        position = end
    if position != size:
        state = "truncated" if position > size else "followed by other bytes"
        raise InputError(f"{path} must hold {position} bytes of data, but holds {size}: it is {state}")
