"""The header of a GGUF file, checked before anything reads the file: what it claims must fit into it. No torch here.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from evomerge.engine.code import MOST
from evomerge.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 100_000
"""The most settings, and the most tensors, of a file."""
MAX_STRINGS = 5_000_000
"""The most texts in the settings: tokens and merges, mostly."""
MAX_TEXT = 1_000_000
MAX_NAME = 64 * 1024
MAX_AXES = 4
MAX_NESTING = 4
ALIGNMENT = "general.alignment"
ARCHITECTURE = "general.architecture"
NEEDED = ("block_count", "embedding_length")
"""What a file must say of its architecture."""

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value by its type
_WHOLE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}  # types of whole numbers
_UINT32, _STRING, _ARRAY = 4, 8, 9
COUNTS = re.compile(r"block_count$|layer|expert_(used_)?count$")
"""Settings that say how many modules a model has; transformers builds them before it looks for their weights."""


class GgufTensor(NamedTuple):
    """What a header says of one tensor: sizes, innermost first, the number of its type, and its place in the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def check_gguf(path: Path) -> None:
    """Check that a GGUF file holds what its header says.

    Raises:
        InputError: it cannot be read, is truncated or no GGUF, or a count, length, size, type or offset in its header
            does not fit it.
    """
    try:
        if not path.is_file() or path.stat().st_size < 24:
            raise InputError(f"{path} must be a GGUF file that transformers reads, but is too short for one")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(path, data).check()
    except OSError as error:
        raise InputError(f"{path} must be readable, but: {error.strerror}") from None


class _Header:
    """Reads a header from front to back."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._place = 0
        self._strings = 0
        self._alignment = 32
        self._architecture = ""

    def check(self) -> None:
        if self._take(4) != MAGIC:
            raise self._wrong("must be a GGUF file that transformers reads, but does not begin as one")
        version = self._number("I")
        if version not in VERSIONS:
            raise self._wrong(f"must be GGUF of version {' or '.join(map(str, VERSIONS))}, but is {version}")
        tensors, settings = self._number("Q"), self._number("Q")
        if max(tensors, settings) > MAX_ENTRIES:
            raise self._wrong(
                f"must have at most {MAX_ENTRIES} tensors and settings, but claims {tensors} and {settings}"
            )
        keys = [self._setting(tensors) for _ in range(settings)]
        self._unique(keys, "setting")
        self._require(keys)
        found = [self._tensor() for _ in range(tensors)]
        self._unique([tensor.name for tensor in found], "tensor")
        self._check_data(found)

    def _setting(self, tensors: int) -> str:
        """Pass over one setting of a file with so many tensors. Returns its key."""
        key = self._name()
        kind = self._number("I")
        if key == ARCHITECTURE and kind == _STRING:
            self._architecture = self._text(MAX_NAME).decode("utf-8", "replace")
            return key
        if kind not in _WHOLE:
            self._skip(kind, 0)
            return key
        value = self._number(_WHOLE[kind])
        most = tensors if key.endswith("block_count") else MOST
        if COUNTS.search(key) and not 0 <= value <= most:
            raise self._wrong(f"must have a {key} that fits its {tensors} tensors, but has {value}")
        if key == ALIGNMENT and kind == _UINT32:
            self._alignment = value
            if value < 8 or value & (value - 1):
                raise self._wrong(f"must have an alignment that is a power of 2 from 8 on, but has {value}")
        return key

    def _require(self, keys: list[str]) -> None:
        """Without these transformers would take its own default: a model of many gigabytes."""
        for name in NEEDED:
            if f"{self._architecture}.{name}" not in keys:
                raise self._wrong(f"must have the setting {self._architecture}.{name}, but lacks it")

    def _skip(self, kind: int, nesting: int) -> None:
        """Pass over a value."""
        if kind in _SIZES:
            self._take(_SIZES[kind])
        elif kind == _STRING:
            self._text()
        elif kind == _ARRAY and nesting < MAX_NESTING:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SIZES:
                self._take(_SIZES[inner] * count)
                return
            for _ in range(count):
                self._skip(inner, nesting + 1)
        else:
            raise self._wrong(f"must have values of known types, but has one of {kind}")

    def _tensor(self) -> GgufTensor:
        name = self._name()
        axes = self._number("I")
        if axes > MAX_AXES:
            raise self._wrong(f"must have at most {MAX_AXES} axes in a tensor, but {name} has {axes}")
        shape = tuple(self._number("Q") for _ in range(axes))
        if math.prod(shape) >= 2**63 or 0 in shape:
            raise self._wrong(f"must have sizes from 1 on with a product below 2^63, but {name} has {list(shape)}")
        return GgufTensor(name, shape, self._number("I"), self._number("Q"))

    def _check_data(self, tensors: list[GgufTensor]) -> None:
        """Each tensor's data must lie behind the header, where the alignment has them, and over no other's."""
        begin = -(-self._place // self._alignment) * self._alignment
        position, before = 0, ""
        for tensor in sorted(tensors, key=lambda each: each.offset):
            if tensor.offset % self._alignment:
                raise self._wrong(
                    f"must align data to {self._alignment} bytes, but {tensor.name} is at {tensor.offset}"
                )
            if tensor.offset < position:
                raise self._wrong(f"must keep tensors apart, but {tensor.name} lies over {before}")
            position, before = tensor.offset + self._nbytes(tensor), tensor.name
            if begin + position > len(self._data):
                raise self._wrong(f"must hold {begin + position} bytes for {tensor.name}, but holds {len(self._data)}")

    def _nbytes(self, tensor: GgufTensor) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        except (ValueError, KeyError):
            raise self._wrong(f"must have tensors of known types, but {tensor.name} is of {tensor.kind}") from None
        if (tensor.shape or (1,))[0] % block:
            raise self._wrong(f"must fill blocks of {block}, but rows of {tensor.name} have {tensor.shape[:1]}")
        return math.prod(tensor.shape) // block * size

    def _unique(self, names: list[str], what: str) -> None:
        if len(set(names)) != len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise self._wrong(f"must have each {what} once, but has {twice!r:.100} twice")

    def _name(self) -> str:
        text = self._text(MAX_NAME)
        try:
            name = text.decode("utf-8")
        except UnicodeDecodeError:
            name = ""
        if not name or not name.isprintable():
            raise self._wrong(f"must have names that can be printed, but has {text[:50]!r}")
        return name

    def _text(self, most: int = MAX_TEXT) -> bytes:
        self._strings += 1
        if self._strings > MAX_STRINGS:
            raise self._wrong(f"must have at most {MAX_STRINGS} texts in its header, but has more")
        length = self._number("Q")
        if length > most:
            raise self._wrong(f"must have texts of at most {most} bytes here, but claims one of {length}")
        return self._take(length)

    def _number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self._take(struct.calcsize(form)))[0])

    def _take(self, count: int) -> bytes:
        """The next bytes; of many the first few, which is all that anybody looks at."""
        if count > len(self._data) - self._place:
            raise self._wrong(f"must hold what its header says, but is truncated: byte {self._place} begins {count}")
        start, self._place = self._place, self._place + count
        return self._data[start : start + min(count, MAX_TEXT)]

    def _wrong(self, rule: str) -> InputError:
        return InputError(f"{self._path} {rule}")
