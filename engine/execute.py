"""Plans carried out over whole arenas: parameters whose kernels are alike run in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from evomerge.engine.arena import Arena, Segment
from evomerge.engine.compiled import Launcher
from evomerge.engine.kernels import Form, Prepared, Rows, Source

PIECE = 2**28
"""Elements that one call handles at most when all sources are at hand."""


class Run(NamedTuple):
    """Parameters that one kernel handles: [first, last) of the arena's segments, and their numbers [parameters, k]."""

    form: Form
    first: int
    last: int
    entries: Sequence[np.ndarray]


Fetch = Callable[[Arena, Source, int, int], torch.Tensor]
"""Rows [start, stop) of a source in an arena: [stop - start, width] on its device."""


def carry_out(
    arena: Arena,
    works: Mapping[str, Prepared],
    fetch: Fetch,
    out: torch.Tensor,
    launcher: Launcher,
    *,
    piece: int = PIECE,
) -> None:
    """Merge all parameters of an arena.

    Args:
        arena: the parameters.
        works: what is to be done for each, by name.
        fetch: gives the sources.
        out: [rows, width]; where the results go.
        launcher: runs the kernels.
        piece: elements that are handled at a time, about.
    """
    for run in runs_of(arena, works):
        for start, stop in pieces_of(arena, run, piece):
            chunks = [fetch(arena, source, start, stop) for source in run.form.sources]
            merge_rows(arena, run, start, stop, chunks, out[start:stop], launcher)


def runs_of(arena: Arena, works: Mapping[str, Prepared]) -> Iterator[Run]:
    """The longest runs of neighbouring parameters with equal forms; forms by row take one parameter at a time."""
    first = 0
    for position in range(1, len(arena.segments) + 1):
        form = works[arena.segments[first].name].form
        inside = position < len(arena.segments) and not form.by_row
        if inside and works[arena.segments[position].name].form == form:
            continue
        entries = [works[segment.name].entry for segment in arena.segments[first:position]]
        yield Run(form, first, position, entries)
        first = position


def pieces_of(arena: Arena, run: Run, elements: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about so many elements that make up a run; those of a form by row start where a row does."""
    first, last = arena.segments[run.first], arena.segments[run.last - 1]
    step = max(elements // arena.kind.width, 1)
    if run.form.by_row:
        period = np.lcm(first.columns, arena.kind.width) // arena.kind.width
        step = max(step // period, 1) * int(period)
    end = last.first + last.rows
    for start in range(first.first, end, step):
        yield start, min(start + step, end)


def merge_rows(
    arena: Arena,
    run: Run,
    start: int,
    stop: int,
    chunks: Sequence[torch.Tensor],
    out: torch.Tensor,
    launcher: Launcher,
) -> None:
    """Merge rows [start, stop) of an arena, which lie in the run.

    Args:
        arena, run, start, stop: which rows.
        chunks: of each of the form's sources, [stop - start, width].
        out: [stop - start, width].
        launcher: runs the kernel.
    """
    if run.form.by_row:
        _merge_own_rows(arena.segments[run.first], run, start, chunks, out, launcher)
        return
    table = on_device(np.stack(run.entries), arena.kind.device)
    parameter = arena.parameter[start:stop] - run.first
    rows = Rows(parameter, arena.number[start:stop], arena.kind.width)
    launcher.run(run.form, out, chunks, run.form.numbers(table, rows))


def _merge_own_rows(
    segment: Segment, run: Run, start: int, chunks: Sequence[torch.Tensor], out: torch.Tensor, launcher: Launcher
) -> None:
    """As `merge_rows`, with the parameter's rows [rows, columns] in place of the arena's."""
    width, columns = out.shape[1], segment.columns
    begin = (start - segment.first) * width
    size = min(out.numel(), segment.numel - begin)
    entry = run.entries[0]
    own = entry if entry.ndim == 2 else np.broadcast_to(entry, (segment.numel // columns, entry.size))
    table = on_device(own[begin // columns : (begin + size) // columns], out.device)
    number = torch.arange(begin // columns, (begin + size) // columns, device=out.device)
    rows = Rows(number - begin // columns, number, columns)
    cut = [chunk.view(-1)[:size].view(-1, columns) for chunk in chunks]
    launcher.run(run.form, out.view(-1)[:size].view(-1, columns), cut, run.form.numbers(table, rows))


def on_device(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Numbers on a device; a GPU is not waited for."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
