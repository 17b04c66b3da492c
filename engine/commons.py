"""What processes of one host have in common when they merge the same models: sources, statistics, the memory plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from evomerge.engine.alignment import Alignment
from evomerge.engine.arena import Arena
from evomerge.engine.checkpoint import Checkpoint
from evomerge.engine.memory import Crowd, MemoryPlan
from evomerge.engine.sharing import Held, Sharing
from evomerge.engine.shelf import Shelf, open_shelf
from evomerge.engine.store import places_of, shared_name
from evomerge.errors import InputError

CODE = ("evomerge", "torch", "transformers", "tokenizers")
"""What turns files into weights."""

Plan = partial[MemoryPlan]
"""`plan_memory` but for its `crowd`."""


class Commons:
    """What processes have in common that merge the same models, in the same layout, by the same code.

    Args:
        folder: as `Sharing`.
        alignment: of the models.
        arenas: how their parameters are laid out.
        tokenizer: which one was chosen.
        tell: as `Sharing`.

    Attributes:
        sharing: the files.
    """

    def __init__(
        self,
        folder: Path,
        alignment: Alignment,
        arenas: Sequence[Arena],
        tokenizer: str,
        tell: Callable[[str], None],
    ) -> None:
        self._checkpoints, self._arenas = alignment.checkpoints, arenas
        self._before = list(map(states, self._checkpoints))
        told = {
            "code": [version(name) for name in CODE],
            "models": [[checkpoint.name, *states(checkpoint)] for checkpoint in self._checkpoints],
            "tokenizer": tokenizer,
            "layout": [_layout(arena) for arena in arenas],
        }
        self.sharing = Sharing(folder, hashlib.sha256(json.dumps(told).encode()).hexdigest(), tell)
        self._plan: Held | None = None

    def check(self) -> None:
        """Raise InputError where a model's files have changed since this was made."""
        for checkpoint, before in zip(self._checkpoints, self._before, strict=True):
            if states(checkpoint) != before:
                raise InputError(f"models must not change while they are read, but {checkpoint.folder} did")

    def shelf(self) -> Shelf | None:
        """Where statistics are. Those of one kind of device may differ from another's in the last bit."""
        kinds = {_kind(arena.kind.device) for arena in self._arenas}
        return open_shelf(self.sharing, repr(("statistics", *sorted(kinds))))

    def plan(self, decide: Callable[[], MemoryPlan], about: Sequence[object]) -> MemoryPlan:
        """The memory plan of all processes that agree on `about`: that of the first, which saw what was free."""
        held = self.sharing.hold(repr(("plan", *about)), 0, lambda contents, alive: decide().as_data())
        self._plan = held  # as long as this process lives, others take the same
        return decide() if held is None else MemoryPlan.from_data(held.told)

    def crowd(self, workers: int, on_gpu: int) -> Crowd:
        """The processes, and whether they can share the sources."""
        sizes = {source: places_of(self._arenas, source)[-1] for source in range(len(self._checkpoints))}
        present = [source for source, size in sizes.items() if self.sharing.has(shared_name(source), size)]
        shares = self.sharing.has_room(sum(size for source, size in sizes.items() if source not in present))
        return Crowd(workers, on_gpu, shares, present if shares else ())


def common_plan(
    plan: Plan, arenas: Sequence[Arena], commons: Commons | None, workers: int, on_gpu: int | None = None
) -> MemoryPlan:
    """The memory plan of one process, or the one that processes with the same commons have together.

    Args:
        plan: makes one.
        arenas: how parameters are laid out.
        commons: what processes share; None: nothing.
        workers: processes on this host.
        on_gpu: of these, the ones on each of this process's GPUs; None: they take GPUs in turns, or each takes all.
    """
    gpus = {arena.kind.device for arena in arenas if arena.kind.device.type == "cuda"}
    if on_gpu is None:
        on_gpu = -(-workers * len(gpus) // torch.cuda.device_count()) if gpus else 1
    if commons is None:
        return plan(crowd=Crowd(workers, on_gpu))
    names = sorted(str(torch.cuda.get_device_properties(gpu).uuid) for gpu in gpus)
    about = [str(commons.sharing.folder.resolve()), workers, on_gpu, names, *sorted(plan.keywords.items())]
    return commons.plan(lambda: plan(crowd=commons.crowd(workers, on_gpu)), about)


def states(checkpoint: Checkpoint) -> list[list[Any]]:
    """The state of each file in a checkpoint's folder, tokenizer included, and of those that its weights come from.

    A state is the file's device, inode, size and times of change. The kernel itself sets the time of the last change,
    so a file that is the same in these has the same bytes; to digest the bytes would cost as much as to read them.
    """
    inside = {path for path in checkpoint.folder.iterdir() if path.is_file()}
    return [[path.name, *_state(path)] for path in sorted({*inside, *checkpoint.weight_files})]


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _layout(arena: Arena) -> dict[str, Any]:
    return {
        "width": arena.kind.width,
        "dtypes": [str(dtype) for dtype in arena.kind.dtypes],
        "segments": [[segment.name, *segment.shape] for segment in arena.segments],
    }


def _kind(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
