"""What a person sees in the terminal: a progress bar on standard error, tables on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from evomerge.runs.pace import duration
from evomerge.search.listener import Listener, TrialOutcome
from evomerge.search.shrinkage import in_words

STAGES = {"search": "search", "select": "finalists", "random": "random search", "report": "comparison"}


class ProgressBar(Listener):
    """One bar for each stage, with the best objective so far; notes and failures stand above it. A context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
        )
        self._current: TaskID | None = None  # models that constraints refer to are scored before the first stage
        self._best: tuple[float, int] | None = None
        self._scored = 0

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._progress.console.print(text, style="dim", highlight=False)

    def stage(self, name: str, total: int, done: int) -> None:
        """Begin a bar."""
        self._current = self._progress.add_task(STAGES[name], total=total, completed=done, told="")

    def step(self) -> None:
        """Move the bar."""
        assert self._current is not None
        self._progress.advance(self._current)

    def documents(self, scored: int) -> None:
        """Count documents."""
        self._scored += scored
        best = f"best {self._best[0]:.4f}, " if self._best else ""
        if self._current is not None:
            self._progress.update(self._current, told=f"{best}{self._scored} documents")

    def trial(self, outcome: TrialOutcome) -> None:
        """Remember the best of those scored in full that keep the constraints; say why a trial failed."""
        if outcome.objective is None:
            self.note(f"trial {outcome.number} failed: {outcome.reason}")
        elif outcome.estimated or not outcome.feasible:
            return
        elif self._best is None or outcome.objective > self._best[0]:
            self._best = (outcome.objective, outcome.number)


def comparison_table(result: dict[str, Any]) -> RenderableType:
    """The answer of a search: the winner and what it is compared with, on the documents of `split`.

    Below it how much of the winner's score is luck, and the constraints and the front, where there are any.
    """
    tasks = list(result["winner"]["tasks"])
    table = Table(
        title=f"{result['split']!r}: documents untouched by the search; gains with 95 % intervals",
        title_justify="left",
    )
    table.add_column("model")
    for name in short_names(tasks):
        table.add_column(name, justify="right")
    table.add_column("objective", justify="right")
    table.add_column("winner's gain", justify="right", no_wrap=True)
    winner = result["winner"]
    scores = [f"{winner['tasks'][task][result['split']]:.3f}" for task in tasks]
    table.add_row("winner", *scores, f"{winner['objective']:.3f}", f"trial {winner['number']}", style="bold")
    for name, row in sorted(result["baselines"].items(), key=lambda item: -float(item[1]["objective"])):
        low, high = row["difference_interval"]
        scores = [f"{row['tasks'][task]:.3f}" for task in tasks]
        gain = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        broken = "" if row.get("feasible", True) else " *"
        table.add_row(f"{name}{broken}", *scores, f"{row['objective']:.3f}", gain)
    parts: list[RenderableType] = [table]
    if sentence := in_words(result):
        parts.append(Text(sentence))
    if result.get("constraints"):
        chosen = "keeps them all" if result["feasible"] else "breaks some, as all finalists do,"
        parts += [
            Text(f"constraints on {result['split']!r} (*: broken)"),
            Text(f"the winner {chosen} on the documents it was chosen by"),
            constraints_table(result["constraints"]),
        ]
    if len(result.get("front", [])) > 1:
        parts += [
            Text("the front, on the documents it was chosen by, the winner first"),
            front_table(result["front"]),
        ]
    return Group(*parts)


def constraints_table(constraints: dict[str, dict[str, Any]]) -> Table:
    """The constraints, and whether the winner keeps them."""
    table = Table("constraint")
    for name in ("bound", "winner", "verdict"):
        table.add_column(name, justify="right")
    for name, row in constraints.items():
        table.add_row(name, f"{row['bound']:.3f}", f"{row['value']:.3f}", verdict(row))
    return table


def verdict(constraint: dict[str, Any]) -> str:
    """Whether a constraint is kept, in words."""
    return "kept" if constraint["kept"] else f"BROKEN by {constraint['violation']:.3f}"


def front_table(members: list[dict[str, Any]]) -> Table:
    """The candidates that no other one beats."""
    tasks = list(members[0]["tasks"])
    table = Table("trial")
    for name in short_names(tasks):
        table.add_column(name, justify="right")
    for member in members:
        table.add_row(str(member["number"]), *(f"{member['tasks'][task]:.3f}" for task in tasks))
    return table


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the words, up to an underscore, that all of them begin with."""
    heads = {name.partition("_")[0] for name in names}
    shared = f"{heads.pop()}_" if len(heads) == 1 else ""
    return [name.removeprefix(shared) for name in names] if len(names) > 1 else list(names)


def status_table(told: dict[str, Any]) -> Table:
    """A run's status as a table of two columns."""
    table = Table(show_header=False, box=None)
    trials, best = told["trials"], told["best"]
    table.add_row("run", told["name"])
    table.add_row("state", told["state"])
    ended = trials["complete"] + trials["failed"] + trials["pruned"]
    told_of = f"{trials['pruned']} stopped early, {trials['failed']} failed, {trials['running']} open"
    table.add_row("trials", f"{ended} of {trials['total']} ended, {told_of}")
    if best is not None:
        estimated = " (estimated)" if best["estimated"] else ""
        error = f" ± {best['stderr']:.4f}" if "stderr" in best else ""
        table.add_row("best", f"trial {best['number']}: {best['objective']:.4f}{error} on {best['split']}{estimated}")
        for task, row in best["tasks"].items():
            values = ", ".join(f"{split} {row[split]:.3f}" for split in ("search", "select", "report") if split in row)
            table.add_row("", f"{task}: {values}")
        for name, row in best["constraints"].items():
            table.add_row("", f"{name}: {verdict(row)}")
        if "shrinkage" in told:
            table.add_row("", _expected(told["shrinkage"]))
    for member in told.get("front", []):
        values = ", ".join(f"{task} {value:.3f}" for task, value in member["tasks"].items())
        table.add_row("front", f"trial {member['number']}: {values}")
    for name, value in told["baselines"].items():
        table.add_row("", f"{name}: {value:.4f}")
    if "stopped" in told:
        table.add_row("end", told["stopped"])
    table.add_row("documents", f"{told['documents']['scored']} scored of {told['documents']['full']}")
    for name, row in told.get("proxy", {}).items():
        leads = "leads the search" if row["leads"] else "does not lead"
        correlation = f"rank correlation {row['correlation']:.2f} over {row['pairs']} candidates"
        table.add_row("stand-in", f"{name}: {correlation}; {leads}")
    if "subset" in told:
        subset = told["subset"]
        table.add_row("subset", f"{subset['documents']} of {subset['of']} documents, error {subset['error']:.3f}")
    if told["rate"] is not None and told["state"] == "running":
        left = f"; {duration(told['left'])} left" if told["left"] else ""
        pace = (
            f"{told['rate']['candidates']:.1f} candidates a minute, {told['rate']['documents']:.1f} documents a second"
        )
        table.add_row("pace", f"{pace}{left}")
    table.add_row("seconds", ", ".join(f"{part} {value:.1f}" for part, value in told["seconds"].items()))
    return table


def _expected(shrinkage: dict[str, Any]) -> str:
    low, high = shrinkage["interval"]
    return (
        f"{shrinkage['expected']:.4f} [{low:.4f}, {high:.4f}] expected on new documents; "
        f"{shrinkage['shrinkage']:.4f} of the {shrinkage['chosen']:.4f} it was chosen by is luck"
    )


def evaluation_table(told: dict[str, Any]) -> Table:
    """The scores of one model."""
    table = Table(title=f"{told['model']} on {told['split']!r}: {told['objective']:.4f}", title_justify="left")
    for column in ("task", "metric", "value", "stderr", "documents"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for task, row in told["tasks"].items():
        stderr = "" if row["stderr"] is None else f"{row['stderr']:.4f}"
        table.add_row(task, row["metric"], f"{row['value']:.4f}", stderr, str(row["n"]))
    return table
