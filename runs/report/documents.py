"""Wins and losses by document: the winner against the best source, with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.runs.console import short_names
from evomerge.runs.report.blocks import Block, Chart, Example, Folded, Section, Table, Text
from evomerge.runs.report.drawing import BLUE, GREEN, GREY, VERMILLION, count, labels, layout, shortened
from evomerge.runs.report.facts import Facts
from evomerge.search.examples import Outcome, best_source, compared, outcome_counts, read_examples

LIGHT = "#C9C9C9"
_LOOKS: Mapping[Outcome, tuple[str, str]] = {
    "won": ("won by the winner", BLUE),
    "lost": ("lost to the source", VERMILLION),
    "both": ("solved by both", GREEN),
    "neither": ("solved by neither", GREY),
    "equal": ("equal", LIGHT),
}
SHOWN = 60  # tasks in the chart


def documents(facts: Facts) -> Section | None:
    """The section; None before the search has ended."""
    result = facts.result
    rival = best_source(facts.config, result) if result is not None else None
    if result is None or rival is None:
        return None
    winner, other = compared(facts.config, facts.run.study, facts.run.ledger, result, rival)
    counts = outcome_counts(facts.run.study, winner, other)
    won, lost = (sum(row[kind] for row in counts.values()) for kind in ("won", "lost"))
    blocks: list[Block] = [
        Text(
            f"The winner against the best source, {rival}, document by document on the split {result['split']}: it is "
            f"better on {won:,} and worse on {lost:,}. Documents lost are what the merge costs."
        ),
        _chart(counts, rival),
        *_examples(facts),
    ]
    return Section("documents", "Wins and losses", blocks)


def _chart(counts: Mapping[str, Mapping[Outcome, int]], rival: str) -> Chart:
    names = list(counts)[:SHOWN]
    ticks = labels(short_names(names))[::-1]
    shown = [kind for kind in _LOOKS if any(counts[name][kind] for name in counts)]
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": _LOOKS[kind][0],
            "y": ticks,
            "x": [counts[name][kind] for name in names][::-1],
            "marker": {"color": _LOOKS[kind][1]},
            "hovertemplate": f"%{{y}}: %{{x:,}} {_LOOKS[kind][0]}<extra></extra>",
        }
        for kind in shown
    ]
    rows = [[name, *(f"{row[kind]:,}" for kind in shown)] for name, row in counts.items()]
    left = f" The table has {len(counts) - SHOWN} more tasks." if len(counts) > SHOWN else ""
    return Chart(
        "documents",
        f"Documents of each task by who solved them, the winner or {shortened(rival, 40)}.{left}",
        f"Documents won, lost and even of {count(len(counts), 'task')}; the table below has the numbers.",
        bars,
        layout(
            120 + 36 * len(names),
            "documents",
            barmode="stack",
            yaxis={"type": "category"},
            legend={"traceorder": "normal"},
        ),
        Table(["task", *(_LOOKS[kind][0] for kind in shown)], rows, f"Against {rival}."),
    )


def _examples(facts: Facts) -> Sequence[Block]:
    rival, kept = read_examples(facts.kept)
    if not kept:
        return [Text("No texts of documents were kept with the study: there are no examples.", "note")]
    groups = [
        (f"Won: documents on which the winner is better than {rival}", [e for e in kept if e["outcome"] == "won"]),
        (f"Lost: documents on which {rival} is better", [e for e in kept if e["outcome"] == "lost"]),
    ]
    return [
        Folded(f"{title} ({count(len(those), 'example')})", [_example(each, rival) for each in those])
        for title, those in groups
        if those
    ]


def _example(kept: Mapping[str, Any], rival: str) -> Example:
    before = f"[{kept['cut']:,} characters before]\n" if kept["cut"] else ""
    return Example(
        f"{kept['title']}, document {kept['document'][:12]}",
        f"{before}{kept['prompt']}",
        kept["expected"],
        [("winner", f"{kept['winner']:g}"), (rival, f"{kept['rival']:g}")],
    )
