"""What a merge keeps where, decided from configurations and headers alone, before any weight is read.

The candidate has to be in memory to be scored. Sources follow in order, the base first, as long as there is room:
on the device, else (for a GPU) in pinned host memory, else they stay on disk and are read for every candidate.

Several processes of one host count together: what each has for itself as often as there are processes, what they share
once. GPUs are taken in turns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from evomerge.engine.arena import Arena
from evomerge.engine.store import STAGE, Tier
from evomerge.errors import InputError
from evomerge.sizes import readable

WORKING = 2**26
"""Bytes that kernels and statistics need beside the weights, about."""

COMPILER = 2**27
"""Bytes that the compiler's code takes once it is loaded, about."""

WORTH_A_PLAN = 2**24
"""Elements of a candidate from which on some candidates make the compiler worth it."""

SHARE_FOR_MERGING = 0.75
"""Of the free memory of a GPU or, without a limit, of the host; the rest is for scoring and other processes."""

MIN_STAGE = 2**16

Place = Literal["device", "pinned host", "memory", "disk"]


@dataclass(frozen=True)
class Part:
    """One thing that takes memory.

    Attributes:
        what: it is.
        nbytes: that one of it takes.
        place: where.
        source: whether it is a source of the merge.
        copies: how many there are on this host; 0 where another run has it, with which it is shared.
    """

    what: str
    nbytes: int
    place: Place
    source: bool = False
    copies: int = 1

    @property
    def total(self) -> int:
        """Bytes that all copies take."""
        return self.nbytes * self.copies

    @property
    def line(self) -> str:
        """The part for a reader."""
        many = f", {self.copies} times {readable(self.nbytes)}" if self.copies > 1 else ""
        return f"{readable(self.total):>9}  {self.place:<11}  {self.what}{many}"


@dataclass(frozen=True)
class MemoryPlan:
    """What a merge keeps where.

    Attributes:
        parts: everything that takes memory, of all workers together.
        tiers: where the base and each expert are kept.
        stage: elements of a source on disk that are staged at a time.
        limit: of the host's memory, in bytes; None: what is free.
        keeps_densities: whether critical densities are kept.
        workers: processes of this host that the plan is for.
        shares: whether they share what they can.
    """

    parts: tuple[Part, ...]
    tiers: tuple[Tier, ...]
    stage: int
    limit: int | None
    keeps_densities: bool = False
    workers: int = 1
    shares: bool = False

    @property
    def host(self) -> int:
        """Bytes of host memory at the peak, those of the processes themselves included."""
        return sum(part.total for part in self.parts if part.place in ("memory", "pinned host"))

    @property
    def device(self) -> int:
        """Bytes of all GPUs' memory that this process uses, with those of the workers on the same GPUs."""
        return sum(part.total for part in self.parts if part.place == "device")

    def lines(self) -> list[str]:
        """The plan for a reader, one line for each part."""
        rows = [part.line for part in self.parts]
        limit = f", limit {readable(self.limit)}" if self.limit is not None else ""
        workers = f" for {self.workers} workers" if self.workers > 1 else ""
        if self.device:
            rows.append(f"{readable(self.device):>9}  device       in all")
        return [*rows, f"{readable(self.host):>9}  memory       in all{workers}{limit}"]

    def as_data(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> MemoryPlan:
        """The plan that `as_data` gave."""
        parts = tuple(Part(**part) for part in data["parts"])
        return cls(**{**data, "parts": parts, "tiers": tuple(data["tiers"])})


class Crowd(NamedTuple):
    """Who else takes memory.

    Attributes:
        workers: processes of this host that merge the same models, this one included.
        on_gpu: of these, the ones on each GPU.
        shares: whether they share sources in the host's memory.
        present: sources that other processes share already.
    """

    workers: int = 1
    on_gpu: int = 1
    shares: bool = False
    present: Collection[int] = ()

    def copies(self, source: int) -> int:
        """How often a source in the host's memory takes room that is free now."""
        return int(source not in self.present) if self.shares else self.workers


def plan_memory(
    arenas: Sequence[Arena],
    names: Sequence[str],
    *,
    limit: int | None = None,
    in_memory: bool = True,
    ranked: bool = False,
    crowd: Crowd = Crowd(),  # noqa: B008
) -> MemoryPlan:
    """Decide where the base and the experts are kept.

    Args:
        arenas: the parameters.
        names: of the base and the experts.
        limit: of the memory on the host of this process, or of all workers together, in bytes; None: what is free now.
        in_memory: whether the candidate is kept in memory; otherwise it is written to disk piece by piece.
        ranked: whether a method reads critical densities (DELLA). They are kept if all sources are and there is room.
        crowd: the processes that the plan is for.

    Raises:
        InputError: what has to be in memory does not fit.
    """
    cuda = any(arena.kind.device.type == "cuda" for arena in arenas)
    needed = _always(arenas, crowd, in_memory=in_memory, cuda=cuda)
    total = limit if limit is not None else resident() + int(available() * SHARE_FOR_MERGING)
    host = total - sum(part.total for part in needed if part.place == "memory")
    room = _free_on_device(arenas) - sum(part.total for part in needed if part.place == "device") if cuda else host
    staging = _staging(arenas, range(len(names)), MIN_STAGE) * crowd.workers
    if room < 0 and cuda:
        raise InputError(f"the GPU must hold the candidate ({readable(_candidate(arenas))}) beside what scoring needs")
    if host < staging:
        listed = ", ".join(f"{readable(part.total)} {part.what}" for part in needed)
        raise InputError(
            f"{'free memory' if limit is None else 'memory_limit'} must be at least "
            f"{readable(total - host + staging)} ({listed}, {readable(staging)} pieces of sources), "
            f"but is {readable(total)}{f' for {crowd.workers} workers' if crowd.workers > 1 else ''}"
        )
    tiers, placed = _tiers(_sizes(arenas, len(names)), names, room, host, staging, crowd, cuda=cuda)
    plan = MemoryPlan((*needed, *placed), tuple(tiers), STAGE, limit, workers=crowd.workers, shares=crowd.shares)
    if "disk" not in tiers and ranked:
        left = room - sum(part.total for part in placed if part.place in ("device", "memory"))
        densities = sum(2 * arena.numel for arena in arenas) * (len(names) - 1)
        copies = crowd.on_gpu if cuda else crowd.workers
        if densities * copies <= left:
            part = Part("critical densities", densities, "device" if cuda else "memory", source=True, copies=copies)
            return replace(plan, parts=(*plan.parts, part), keeps_densities=True)
    return _with_staging(arenas, plan, host)


def _always(arenas: Sequence[Arena], crowd: Crowd, *, in_memory: bool, cuda: bool) -> list[Part]:
    """What has to be there wherever sources are."""
    parts = [Part("this process, libraries included", resident(), "memory")]
    if crowd.workers > 1:
        parts.append(Part("the other workers' processes", unshared(), "memory", copies=crowd.workers - 1))
    parts.append(Part("kernels and statistics", WORKING, "memory", copies=crowd.workers))
    if in_memory and sum(arena.numel for arena in arenas) >= WORTH_A_PLAN:
        parts.append(Part("the compiler", COMPILER, "memory", copies=crowd.workers))
    if in_memory:
        place: Place = "device" if cuda else "memory"
        copies = crowd.on_gpu if cuda else crowd.workers
        parts.append(Part("the candidate", _candidate(arenas), place, copies=copies))
    return parts


def _candidate(arenas: Sequence[Arena]) -> int:
    return sum(arena.numel * arena.kind.out.itemsize for arena in arenas)


def _sizes(arenas: Sequence[Arena], sources: int) -> list[int]:
    return [sum(arena.numel * arena.kind.dtypes[i].itemsize for arena in arenas) for i in range(sources)]


def _tiers(
    sources: Sequence[int], names: Sequence[str], room: int, host: int, staging: int, crowd: Crowd, *, cuda: bool
) -> tuple[list[Tier], list[Part]]:
    """Where each source goes, and the parts that follow."""
    tiers: list[Tier] = []
    parts = []
    left = {"device": room, "host": host}
    shared = {0: ", shared with another run", 1: ", shared"} if crowd.shares else {}
    for position, (size, name) in enumerate(zip(sources, names, strict=True)):
        what = f"base {name}" if position == 0 else f"expert {name}"
        last = position == len(names) - 1 and "disk" not in tiers
        spare = 0 if last else staging
        here = crowd.copies(position)
        on_device = crowd.on_gpu if cuda else here
        if size * on_device <= left["device"] - (0 if cuda else spare):
            tiers.append("device")
            left["device"] -= size * on_device
            note = "" if cuda else shared.get(here, "")
            parts.append(Part(what + note, size, "device" if cuda else "memory", source=True, copies=on_device))
        elif cuda and size * here <= left["host"] - spare:
            tiers.append("host")
            left["host"] -= size * here
            parts.append(Part(what + shared.get(here, ""), size, "pinned host", source=True, copies=here))
        else:
            tiers.append("disk")
            parts.append(Part(what, size, "disk", source=True))
    return tiers, parts


def _with_staging(arenas: Sequence[Arena], plan: MemoryPlan, host: int) -> MemoryPlan:
    """The plan, with staging buffers as large as there is room for."""
    on_disk = [i for i, tier in enumerate(plan.tiers) if tier == "disk"]
    if not on_disk:
        return plan
    stage = STAGE
    held = sum(part.total for part in plan.parts if part.source and part.place not in ("disk", "device"))
    while stage > MIN_STAGE and _staging(arenas, on_disk, stage) * plan.workers > host - held:
        stage //= 2
    size = _staging(arenas, on_disk, stage)
    staged = Part("pieces of what is on disk", size, "memory", copies=plan.workers)
    return replace(plan, parts=(*plan.parts, staged), stage=stage)


def _staging(arenas: Sequence[Arena], sources: Sequence[int], stage: int) -> int:
    """Bytes of the pieces of some sources, for each thread that takes statistics, and of a result's piece."""
    item = max((sum(arena.kind.dtypes[i].itemsize for i in sources) for arena in arenas), default=0)
    largest = max((arena.numel for arena in arenas), default=0)
    return min(stage, largest) * (item * max(torch.get_num_threads(), 1) + 4)


def _free_on_device(arenas: Sequence[Arena]) -> int:
    """Bytes that merging may take on the GPUs."""
    devices = {arena.kind.device for arena in arenas if arena.kind.device.type == "cuda"}
    return int(sum(torch.cuda.mem_get_info(device)[0] for device in devices) * SHARE_FOR_MERGING)


def resident() -> int:
    """Bytes of memory that this process takes now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


def unshared() -> int:
    """Bytes of this process's memory that it shares with no other and that no file holds; `resident()` where the
    system does not say."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
        return sum(int(number) * 1024 for number in re.findall(r"^Private_Dirty:\s+(\d+) kB", text, re.MULTILINE))
    except OSError:
        return resident()


def available() -> int:
    """Bytes of memory that are free for this process, control groups considered; without limit where not known."""
    found = [2**62]
    try:
        text = Path("/proc/meminfo").read_text()
        found += [int(number) * 1024 for number in re.findall(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
        found += [max(int(limit) - int(used), 0)] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(found)
