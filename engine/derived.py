"""Sources that are computed from others: the critical densities of DELLA (`evomerge.engine.della`)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from evomerge.engine.arena import Arena, Segment
from evomerge.engine.della import critical_densities
from evomerge.engine.kernels import Critical, Source
from evomerge.engine.mapped import tensor_over
from evomerge.engine.random_bits import Keys, random_key
from evomerge.engine.sharing import Alive
from evomerge.engine.statistics import words
from evomerge.engine.store import BASE, Store

SORTED = {"cpu": 2**18, "cuda": 2**25}
"""Elements that are ranked at a time: on CPU by each thread."""


class Derived:
    """Gives the rows of every source of a store, derived ones included.

    Args:
        store: base and experts.
        keep: whether the derived sources that were used last, one for each expert, are kept in memory; otherwise
            each piece is computed when it is asked for.
    """

    def __init__(self, store: Store, *, keep: bool = True) -> None:
        self._store = store
        self._keep = keep
        self._kept: dict[tuple[int, int], tuple[Critical, torch.Tensor]] = {}

    def fetch(self, arena: Arena, source: Source, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop): [stop - start, width] on the arena's device. Do not write into it."""
        if isinstance(source, int):
            return self._store.rows(arena, source, start, stop)
        if not self._keep:
            return self._compute(arena, source, start, stop)
        place = (id(arena), source.expert)
        if place not in self._kept or self._kept[place][0] != source:
            self._kept.pop(place, None)
            self._kept[place] = source, self._shared(arena, source)
        return self._kept[place][1][start:stop]

    def forget(self) -> None:
        """Let go of all that is kept."""
        self._kept.clear()

    def _shared(self, arena: Arena, source: Critical) -> torch.Tensor:
        """All rows, in memory that processes share where these share the sources."""
        sharing = self._store.sharing
        if sharing is None or arena.kind.device.type != "cpu":
            return self._compute(arena, source, 0, arena.rows)
        shape = (arena.rows, arena.kind.width)

        def fill(contents: np.ndarray, alive: Alive) -> dict[str, Any]:
            self._compute_into(tensor_over(contents, torch.int16).view(shape), arena, source, 0, alive)
            return {}

        name = repr(("critical densities", self._store.arenas.index(arena), source))
        held = sharing.hold(name, 2 * arena.numel, fill)
        if held is None:
            return self._compute(arena, source, 0, arena.rows)
        return tensor_over(held.contents, torch.int16).view(shape)

    def _compute(self, arena: Arena, source: Critical, start: int, stop: int) -> torch.Tensor:
        out = torch.zeros(stop - start, arena.kind.width, dtype=torch.int16, device=arena.kind.device)
        self._compute_into(out, arena, source, start)
        return out

    def _compute_into(
        self, out: torch.Tensor, arena: Arena, source: Critical, start: int, alive: Alive = lambda: None
    ) -> None:
        """Write rows from `start` on into `out`: int16 [rows, width], zeros before."""
        tasks = []
        stop = start + out.shape[0]
        for segment, begin, numel, place in arena.parts(start, stop):
            tasks += self._tasks(segment, begin, out.view(-1)[place : place + numel])

        def rank(task: tuple[Segment, int, int, torch.Tensor]) -> None:
            alive()
            self._rank(source, *task)

        with ThreadPoolExecutor(max(torch.get_num_threads(), 1) if out.device.type == "cpu" else 1) as pool:
            list(pool.map(rank, tasks))

    def _tasks(self, segment: Segment, begin: int, out: torch.Tensor) -> list[tuple[Segment, int, int, torch.Tensor]]:
        """Whole rows of a parameter that together cover its elements [begin, begin + out.numel()), which go to `out`:
        (parameter, first element of the rows, first element that is wanted, where those go)."""
        columns = segment.columns
        step = max(SORTED[out.device.type] // columns, 1) * columns
        tasks = []
        for start in range(begin // columns * columns, begin + out.numel(), step):
            low, high = max(start, begin), min(start + step, begin + out.numel())
            tasks.append((segment, start, low, out[low - begin : high - begin]))
        return tasks

    def _rank(self, source: Critical, segment: Segment, start: int, low: int, out: torch.Tensor) -> None:
        """Write the critical densities of elements [low, low + out.numel()), in rows that begin at `start`."""
        columns = segment.columns
        expert = self._store.experts[source.expert - 1]
        keys = Keys(random_key(source.seed, "", segment.name), (random_key(source.seed, expert, segment.name),))
        stop = -(-(low + out.numel()) // columns) * columns
        base, own = (self._store.flat(segment.name, s, start, stop) for s in (BASE, source.expert))
        values = critical_densities(own.float() - base.float(), columns, words(keys, start, own), source.epsilon)
        out.copy_(values[low - start : low - start + out.numel()])
