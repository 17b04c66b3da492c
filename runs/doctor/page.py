"""The checklist for a terminal: errors first, then warnings, then the rest; the experts' angles as a heat map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.runs.doctor.examination import Examination, Told
from evomerge.runs.doctor.findings import Level

MARKS: dict[Level, tuple[str, str]] = {
    "error": ("✗ error", "bold red"),
    "warning": ("! warning", "yellow"),
    "ok": ("✓ ok", "green"),
    "skipped": ("- skipped", "dim"),
}

SHADES = "▁▂▃▄▅▆▇█"


def examination_page(found: Examination) -> Group:
    """Everything that was found."""
    table = Table(show_header=False, show_edge=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for told in _together(found.told):
        mark, style = MARKS[told.level]
        table.add_row(Text(mark, style=style), Text(told.check), _lines(told))
    conflict = found.parts.get("conflict")
    maps = [] if conflict is None or not conflict["pairs"] else [Text(), heat_map(conflict)]
    return Group(table, *maps, Text(), _summary(found))


def heat_map(conflict: Mapping[str, Any]) -> RenderableType:
    """A row for each pair of experts and number, a character for each layer: higher is more alike."""
    table = Table(
        title="experts by layer: cosine of task vectors (0 ▁ to 1 █, red: below 0), signs of large changes that agree "
        "(0 ▁ to 1 █, red: below a half)",
        title_justify="left",
        show_edge=False,
        box=None,
        pad_edge=False,
    )
    table.add_column("pair")
    table.add_column("")
    table.add_column(f"{conflict['layers'][0]}, then layers from 0", overflow="fold")
    table.add_column("overall", justify="right")
    for pair in conflict["pairs"]:
        for name, middle in (("cosine", 0.0), ("signs", 0.5)):
            label = f"{pair['a']}, {pair['b']}" if name == "cosine" else ""
            overall = pair["overall"][name]
            table.add_row(Text(label), name, _shaded(pair[name], middle), "-" if overall is None else f"{overall:.2f}")
    return table


def _shaded(values: Sequence[float | None], middle: float) -> Text:
    text = Text()
    for value in values:
        if value is None:
            text.append("·", style="dim")
        else:
            shade = SHADES[min(int(min(abs(value), 1.0) * len(SHADES)), len(SHADES) - 1)]
            text.append(shade, style="red" if value < middle else "cyan")
    return text


def _together(told: Sequence[Told]) -> list[Told]:
    """Checks that were skipped for the same reason in one line, after all others."""
    seen = [each for each in told if each.level != "skipped"]
    skipped: dict[tuple[str, str], dict[str, None]] = {}
    for each in told:
        if each.level == "skipped":
            skipped.setdefault((each.text, each.advice), {})[each.check] = None
    return seen + [
        Told("", "skipped", f"{', '.join(checks)}: {why}", advice) for (why, advice), checks in skipped.items()
    ]


def _lines(told: Told) -> Text:
    text = Text(told.text)
    if told.advice:
        text.append(f"\n→ {told.advice}", style="italic")
    return text


def _summary(found: Examination) -> Text:
    parts = list(_counts(found))
    verdict = "a search with this configuration fails" if found.errors else "ready"
    return Text(f"{found.name}: {verdict}; {', '.join(parts)}", style="bold red" if found.errors else "bold")


def _counts(found: Examination) -> Iterator[str]:
    for level, (one, many) in {
        "error": ("error", "errors"),
        "warning": ("warning", "warnings"),
        "ok": ("ok", "ok"),
        "skipped": ("skipped", "skipped"),
    }.items():
        count = found.count(level)  # type: ignore[arg-type]
        if count or level in ("error", "warning"):
            yield f"{count} {one if count == 1 else many}"
