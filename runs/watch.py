"""A run, watched in the terminal until it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evomerge.runs.console import status_table
from evomerge.runs.events import read_events
from evomerge.runs.run import Run
from evomerge.runs.status import status
from evomerge.search.presence import present_workers
from evomerge.search.sampling import in_order_of_telling
from evomerge.search.study import full_trials, study_tasks, trial_objective, trial_violation

SECONDS = 1.0  # between two looks
SILENT = 60.0  # seconds without a sign after which a worker of another host is taken for dead
NOTES = 4
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48  # of bar and line, in characters


class Watch:
    """What is seen of a run; it remembers when each worker gave its last sign.

    Args:
        run: to look at.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._signs: dict[str, tuple[int, float]] = {}

    def look(self) -> tuple[dict[str, Any], RenderableType]:
        """The run's status and a picture of it: a bar, a line, a table with the workers, the last notes."""
        told = status(self._run)
        trials = told["trials"]
        ended = trials["complete"] + trials["pruned"] + trials["failed"]
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(max(trials["total"], 1), ended, width=WIDTH), f"{ended}/{trials['total']} trials")
        parts: list[RenderableType] = [bar]
        if best := self._best_so_far():
            line = Text(sparkline(best), style="green")
            parts.append(line.append(f"  best {best[0]:.4f} → {best[-1]:.4f}", style="default"))
        table = status_table(told)
        table.add_row("workers", str(self.workers()))
        parts += [Text(), table, Text()]
        parts += [Text(note, style="dim", overflow="ellipsis", no_wrap=True) for note in self._notes()]
        return told, Group(*parts)

    def workers(self) -> int:
        """How many are alive: those of this host whose process is there, and others that have counted up lately."""
        now = time.monotonic()
        there = {each.worker: beat for each, beat in present_workers(self._run.storage.engine, self._name).items()}
        for worker, beat in there.items():
            if worker not in self._signs or self._signs[worker][0] != beat:
                self._signs[worker] = beat, now
        return sum(now - self._signs[worker][1] < SILENT for worker in there)

    @property
    def _name(self) -> str:
        return str(self._run.study.study_name)

    def _best_so_far(self) -> list[float]:
        """The best objective after each trial scored in full that keeps the constraints."""
        tasks = study_tasks(self._run.study)
        found: list[float] = []
        for trial in in_order_of_telling(full_trials(self._run.study)):
            if trial_violation(trial) == 0:
                found.append(max([trial_objective(trial, tasks), *found[-1:]]))
        return found

    def _notes(self) -> list[str]:
        noted = [event for event in read_events(self._run.folder / "events.jsonl") if event["event"] == "note"]
        return [str(event.get("text", "")) for event in noted[-NOTES:]]


def watch(run: Run, console: Console) -> None:
    """Show a run, once a second, until nobody works on it any more; at once, once, where nobody does."""
    seen = Watch(run)
    told, picture = seen.look()
    with Live(picture, console=console, auto_refresh=False) as live:
        while told["state"] == "running":
            time.sleep(SECONDS)
            told, picture = seen.look()
            live.update(picture, refresh=True)


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as a line of blocks from the lowest to the highest, the last of each `len / width` of them."""
    size = min(len(values), width)
    shown = [values[(place + 1) * len(values) // size - 1] for place in range(size)]
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)
