"""Where sources are while candidates are made: on the device, in the host's memory, or read from disk each time.

Sources on the device or the host lie in one flat buffer for each arena. In the host's memory the processes of one
host can have them in common. Sources on disk are read piece by piece into staging buffers, once for each pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from evomerge.engine.arena import Arena, Segment
from evomerge.engine.mapped import pin, tensor_over
from evomerge.engine.sharing import Alive, Sharing
from evomerge.errors import InputError

Tier = Literal["device", "host", "disk"]
BASE = 0
STAGE = 2**23
"""Elements of a source on disk that are staged at a time, at most."""

READ = 2**22
"""Elements that one thread reads at a time."""

PAGE = 4096
"""Bytes; in shared memory each arena begins at a multiple."""


class Reading(Protocol):
    """One parameter of one source, in the candidate's shape."""

    @property
    def dtype(self) -> torch.dtype:
        """As stored; float32 where it is computed."""

    def fill(self, out: torch.Tensor, start: int) -> None:
        """Write the flattened parameter's elements from `start` on into `out`: 1-D, on CPU, of this dtype."""


class Extent(NamedTuple):
    """What was found in one parameter of one source: its largest magnitude, and how many values are not finite."""

    largest: float
    not_finite: int


class Store:
    """The base and the experts of a merge.

    Args:
        arenas: the layout.
        readings: for the base and each expert, by parameter.
        names: of the base and the experts.
        tiers: where the base and each expert are kept.
        stage: elements of a source on disk that are staged at a time.
        allow_nonfinite: whether weights may be NaN or infinite.
        sharing: what processes of this host have in common: sources in the host's memory are, where it is given.

    Attributes:
        stage, sharing: as given.
        segments: the arena and segment of each parameter.
        experts: the experts' names.
        largest: the largest magnitude of any source that was looked at, that is of those not left on disk.

    Raises:
        InputError: a file cannot be read; or weights are not finite, which `allow_nonfinite` does not allow.
    """

    def __init__(
        self,
        arenas: Sequence[Arena],
        readings: Sequence[Mapping[str, Reading]],
        names: Sequence[str],
        tiers: Sequence[Tier],
        *,
        stage: int = STAGE,
        allow_nonfinite: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        self.stage, self.sharing = stage, sharing
        self.arenas = tuple(arenas)
        self.segments: dict[str, tuple[Arena, Segment]] = {s.name: (a, s) for a in arenas for s in a.segments}
        self.experts = tuple(names[1:])
        self._readings, self._names, self._tiers = readings, tuple(names), tuple(tiers)
        self._allow_nonfinite = allow_nonfinite
        self._buffers: dict[tuple[int, int], torch.Tensor] = {}
        self._lock = threading.Lock()
        self.largest = 0.0
        for source, tier in enumerate(tiers):
            if tier != "disk":
                self._load(source, tier)

    def rows(self, arena: Arena, source: int, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a source: [stop - start, width] on the arena's device, in its stored dtype.

        Do not write into it. Sources on disk are staged in new memory.
        """
        held = self._buffers.get((id(arena), source))
        if held is not None:
            return held[start:stop].to(arena.kind.device, non_blocking=True)
        staged = torch.zeros(stop - start, arena.kind.width, dtype=arena.kind.dtypes[source])
        for segment, begin, numel, place in arena.parts(start, stop):
            self._read(source, segment, staged.view(-1)[place : place + numel], begin)
        return staged.to(arena.kind.device, non_blocking=True)

    def flat(self, parameter: str, source: int, start: int, stop: int) -> torch.Tensor:
        """Elements [start, stop) of one parameter: 1-D, on its device, in the source's stored dtype. Read only."""
        arena, segment = self.segments[parameter]
        held = self._buffers.get((id(arena), source))
        if held is not None:
            return segment.flat(held)[start:stop].to(arena.kind.device, non_blocking=True)
        staged = torch.empty(stop - start, dtype=arena.kind.dtypes[source])
        self._read(source, segment, staged, start)
        return staged.to(arena.kind.device, non_blocking=True)

    def chunks(
        self, parameter: str, sources: Sequence[int], step: int, multiple: int = 1
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """(position of the first element, a piece of each source), over all of a parameter.

        Args:
            parameter: its name.
            sources: which.
            step: elements a piece, about.
            multiple: pieces start and end at multiples of this, or at the parameter's end.
        """
        _, segment = self.segments[parameter]
        step = max(step // multiple, 1) * multiple
        stage = max(self.stage // step, 1) * step
        for begin in range(0, segment.numel, stage):
            end = min(begin + stage, segment.numel)
            staged = [self.flat(parameter, source, begin, end) for source in sources]
            for start in range(0, end - begin, step):
                yield begin + start, [piece[start : start + step] for piece in staged]

    def _load(self, source: int, tier: Tier) -> None:
        """Have a source in flat buffers: read, or mapped where another process has read it."""
        if not self._share(source, tier):
            buffers = [self._empty(arena, source, tier) for arena in self.arenas]
            self._judge(source, self._read_all(source, buffers))
            self._keep(source, buffers)

    def _share(self, source: int, tier: Tier) -> bool:
        """Have a source in memory that processes share, if it is to be in the host's and that is possible."""
        if self.sharing is None or not is_shareable(self.arenas, tier):
            return False
        places = places_of(self.arenas, source)

        def fill(contents: np.ndarray, alive: Alive) -> dict[str, Any]:
            return summary(self._read_all(source, self._carved(contents, source, places), alive))

        held = self.sharing.hold(shared_name(source), places[-1], fill)
        if held is None:
            return False
        self._judge(source, extents_in(held.told))
        self._keep(source, self._carved(held.contents, source, places))
        if tier == "host":
            pin(held.contents)
        return True

    def _keep(self, source: int, buffers: Sequence[torch.Tensor]) -> None:
        self._buffers |= {(id(arena), source): buffer for arena, buffer in zip(self.arenas, buffers, strict=True)}

    def _empty(self, arena: Arena, source: int, tier: Tier) -> torch.Tensor:
        shape, dtype = (arena.rows, arena.kind.width), arena.kind.dtypes[source]
        if tier == "device":
            return torch.empty(shape, dtype=dtype, device=arena.kind.device)
        return torch.empty(shape, dtype=dtype, pin_memory=arena.kind.device.type == "cuda")

    def _carved(self, contents: np.ndarray, source: int, places: Sequence[int]) -> list[torch.Tensor]:
        """The arenas' buffers [rows, width] in shared memory."""
        return [
            tensor_over(contents[place : place + nbytes_of(arena, source)], arena.kind.dtypes[source]).view(
                arena.rows, arena.kind.width
            )
            for arena, place in zip(self.arenas, places[:-1], strict=True)
        ]

    def _read_all(
        self, source: int, buffers: Sequence[torch.Tensor], alive: Alive = lambda: None
    ) -> list[tuple[str, Extent]]:
        """Read a source into buffers of the arenas, several threads at once; what was found in each parameter."""
        tasks = []
        for arena, buffer in zip(self.arenas, buffers, strict=True):
            flat = buffer.view(-1)
            for segment in arena.segments:
                end = (segment.first + segment.rows) * arena.kind.width
                flat[segment.first * arena.kind.width + segment.numel : end] = 0.0
                tasks += [(segment, segment.flat(buffer)[k : k + READ], k) for k in range(0, segment.numel, READ)]

        def read(task: tuple[Segment, torch.Tensor, int]) -> tuple[str, Extent]:
            alive()
            return task[0].name, self._fill(source, *task)

        with ThreadPoolExecutor(max(torch.get_num_threads(), 1)) as pool:
            return list(pool.map(read, tasks))

    def _fill(self, source: int, segment: Segment, out: torch.Tensor, start: int) -> Extent:
        """Read into `out`; what lies on a GPU goes through a piece of the host's memory, never through more."""
        piece = out if out.device.type == "cpu" else torch.empty(out.shape, dtype=out.dtype)
        self._readings[source][segment.name].fill(piece, start)
        if piece is not out:
            out.copy_(piece)
        return extent_of(piece)

    def _read(self, source: int, segment: Segment, out: torch.Tensor, start: int) -> None:
        """Read a part of a parameter, and judge what is found."""
        if out.numel() == 0:
            return
        found = self._fill(source, segment, out, start)
        self._judge(source, [(segment.name, found)])

    def _judge(self, source: int, extents: Sequence[tuple[str, Extent]]) -> None:
        counts: dict[str, int] = {}
        for name, extent in extents:
            if extent.not_finite:
                counts[name] = counts.get(name, 0) + extent.not_finite
        with self._lock:
            self.largest = max([self.largest, *(extent.largest for _, extent in extents)])
        if counts and not self._allow_nonfinite:
            worst = max(counts, key=lambda name: counts[name])
            more = f" and in {len(counts) - 1} more parameters" if len(counts) > 1 else ""
            who = "the base" if source == BASE else "expert"
            raise InputError(
                f"weights must be finite, but {who} {self._names[source]!r} holds {counts[worst]} NaN or infinite "
                f"values in {worst}{more}; allow_nonfinite: true takes them as they are"
            )


def is_shareable(arenas: Sequence[Arena], tier: Tier) -> bool:
    """Whether a source in that tier lies in the host's memory, where processes can have it in common."""
    return tier == "host" or (tier == "device" and all(arena.kind.device.type == "cpu" for arena in arenas))


def shared_name(source: int) -> str:
    """What processes call the buffers of a source among themselves."""
    return f"source {source}"


def nbytes_of(arena: Arena, source: int) -> int:
    """Bytes of a source's buffer in an arena."""
    return arena.numel * arena.kind.dtypes[source].itemsize


def places_of(arenas: Sequence[Arena], source: int) -> list[int]:
    """Where a source's buffers begin in memory that holds one after the other, and last how many bytes that takes."""
    places = [0]
    for arena in arenas:
        places.append(-(-(places[-1] + nbytes_of(arena, source)) // PAGE) * PAGE)
    return places


def summary(extents: Sequence[tuple[str, Extent]]) -> dict[str, Any]:
    """What was found in a source, as JSON."""
    counts: dict[str, int] = {}
    for name, extent in extents:
        if extent.not_finite:
            counts[name] = counts.get(name, 0) + extent.not_finite
    return {"largest": max((extent.largest for _, extent in extents), default=0.0), "not finite": counts}


def extents_in(told: Mapping[str, Any]) -> list[tuple[str, Extent]]:
    """What `summary` has summed up."""
    counts = [(name, Extent(0.0, count)) for name, count in told["not finite"].items()]
    return [("", Extent(told["largest"], 0)), *counts]


def extent_of(piece: torch.Tensor) -> Extent:
    """The largest magnitude among the finite values of a 1-D piece, and the number of the others."""
    if piece.numel() == 0:
        return Extent(0.0, 0)
    low, high = torch.aminmax(piece)
    largest = float(torch.maximum(low.abs(), high.abs()))
    if largest < float("inf"):
        return Extent(largest, 0)
    finite = piece.isfinite()
    kept = piece[finite].abs()
    return Extent(float(kept.max()) if kept.numel() else 0.0, int(piece.numel() - finite.sum()))
