"""Parameters laid out in rows: one flat buffer for each source and each kind of layout, so that one kernel call
covers many parameters.

A parameter starts a row and takes as many as it needs; the rest of its last row is padding. Rows have 1,024
elements, or 16 for small parameters, which have arenas of their own: what holds for a row (such as which tied
elements survive a trim) is then fine-grained in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

WIDE = 1024
NARROW = 16
SMALL = 2**16
"""Parameters with fewer elements lie in narrow rows."""


class Kind(NamedTuple):
    """What the parameters of one arena have in common.

    Attributes:
        width: elements a row.
        dtypes: of the base and the experts, as stored.
        out: of the result.
        device: where their part of the model lives.
    """

    width: int
    dtypes: tuple[torch.dtype, ...]
    out: torch.dtype
    device: torch.device


class Item(NamedTuple):
    """One parameter to be laid out: its name, shape and kind."""

    name: str
    shape: tuple[int, ...]
    kind: Kind


@dataclass(frozen=True)
class Segment:
    """Where one parameter lies in its arena.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        numel: its number of elements.
        first: its first row.
        rows: how many rows it takes.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    first: int
    rows: int

    @property
    def columns(self) -> int:
        """The length of the parameter's own rows: of its last axis; a vector is one row."""
        return max(self.shape[-1] if self.shape else 1, 1)

    def flat(self, buffer: torch.Tensor) -> torch.Tensor:
        """The parameter's elements in a buffer [rows, width] of its arena: a view, 1-D."""
        width = buffer.shape[1]
        return buffer.view(-1)[self.first * width : self.first * width + self.numel]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """The same in the parameter's shape."""
        return self.flat(buffer).view(self.shape)


class Part(NamedTuple):
    """Elements [begin, begin + numel) of a parameter, which lie at `place` among the elements of some rows."""

    segment: Segment
    begin: int
    numel: int
    place: int


class Arena:
    """Parameters of one kind, in rows.

    Args:
        kind: of all of them.
        items: (name, shape) in order.

    Attributes:
        segments: one for each parameter.
        rows: of all of them together.
        parameter, number: int64 [rows] on the kind's device: the place in `segments` of the parameter that a row
            belongs to, and the row's number in it.
    """

    def __init__(self, kind: Kind, items: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        self.kind = kind
        segments, first = [], 0
        for name, shape in items:
            numel = torch.Size(shape).numel()
            segments.append(Segment(name, shape, numel, first, -(-numel // kind.width)))
            first += segments[-1].rows
        self.segments = tuple(segments)
        self.rows = first
        counts = torch.tensor([segment.rows for segment in segments], dtype=torch.int64)
        self.parameter = torch.repeat_interleave(torch.arange(len(segments)), counts).to(kind.device)
        starts = torch.tensor([segment.first for segment in segments], dtype=torch.int64)
        self.number = (torch.arange(first) - torch.repeat_interleave(starts, counts)).to(kind.device)

    @property
    def numel(self) -> int:
        """Elements, padding included."""
        return self.rows * self.kind.width

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """The parts of parameters that lie in rows [start, stop)."""
        width = self.kind.width
        for segment in self.segments:
            first, last = max(segment.first, start), min(segment.first + segment.rows, stop)
            if first < last:
                begin = (first - segment.first) * width
                end = min((last - segment.first) * width, segment.numel)
                yield Part(segment, begin, end - begin, (first - start) * width)


def arrange(items: Sequence[Item]) -> list[Arena]:
    """One arena for each kind, the parameters in the order given."""
    kinds: dict[Kind, list[tuple[str, tuple[int, ...]]]] = {}
    for item in items:
        kinds.setdefault(item.kind, []).append((item.name, item.shape))
    return [Arena(kind, members) for kind, members in kinds.items()]


def width_of(numel: int) -> int:
    """Elements a row, for a parameter of so many elements."""
    return WIDE if numel >= SMALL else NARROW
