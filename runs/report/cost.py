"""What the search took: seconds by part, documents, memory; and what was forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.runs.pace import duration
from evomerge.runs.report.blocks import Block, Chart, Section, Table, Text
from evomerge.runs.report.drawing import BLUE, GREEN, ORANGE, layout, size, small
from evomerge.runs.report.facts import ACTUAL, FORECAST, Facts

_PARTS = {"merge": ("merging", BLUE), "score": ("scoring", GREEN), "sampler": ("proposing", ORANGE)}


def cost(facts: Facts) -> Section | None:
    """The section; None: nothing has been spent."""
    seconds, documents = facts.told["seconds"], facts.told["documents"]
    if not seconds["total"]:
        return None
    told = f"{duration(seconds['total'])} of work in the trials, over all workers, without the comparison at the end."
    if documents["full"]:
        told += (
            f" {documents['scored']:,} documents were scored in the search; scoring every candidate on all of them "
            f"would have taken {documents['full']:,}, so {documents['full'] - documents['scored']:,} were saved."
        )
    blocks: list[Block] = [Text(told), _seconds(seconds)]
    forecast = facts.kept.get(FORECAST)
    if forecast is not None:
        blocks.append(_forecast(forecast, facts.kept.get(ACTUAL, {}), seconds, documents))
    return Section("cost", "Cost", blocks)


def _seconds(seconds: Mapping[str, float]) -> Chart:
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": ["seconds"],
            "x": small([seconds[part]]),
            "marker": {"color": color},
            "hovertemplate": f"{name}: %{{x:.1f}} s<extra></extra>",
        }
        for part, (name, color) in _PARTS.items()
    ]
    rows = [
        [name, f"{seconds[part]:,.1f}", f"{seconds[part] / seconds['total']:.0%}"] for part, (name, _) in _PARTS.items()
    ]
    return Chart(
        "seconds",
        "Seconds in the trials by part. Gradients count as proposing.",
        "; ".join(f"{name} {share}" for name, _, share in rows),
        bars,
        layout(150, "seconds", barmode="stack", yaxis={"showticklabels": False}, legend={"traceorder": "normal"}),
        Table(["part", "seconds", "share"], rows, "Seconds by part."),
    )


def _forecast(
    forecast: Mapping[str, Any], actual: Mapping[str, Any], seconds: Mapping[str, float], documents: Mapping[str, int]
) -> Table:
    rows: list[list[str]] = []
    expected = forecast.get("seconds") or {}
    for part in [*_PARTS, "total"]:
        if part in expected:
            name = _PARTS[part][0] if part in _PARTS else "in all"
            rows.append(
                [name, duration(expected[part]), duration(seconds[part]), _ratio(seconds[part], expected[part])]
            )
    peak = actual.get("memory") or {}
    for place, expected_bytes in (forecast.get("memory") or {}).items():
        if not expected_bytes:
            continue
        had = peak.get(place)
        told = [size(had), _ratio(had, expected_bytes)] if had else ["unknown", ""]
        rows.append([f"memory of the {place}", size(expected_bytes), *told])
    if forecast.get("documents"):
        planned = forecast["documents"]
        rows.append(["documents", f"{planned:,.0f}", f"{documents['scored']:,}", _ratio(documents["scored"], planned)])
    return Table(["", "forecast", "actual", "actual / forecast"], rows, "What was forecast before the search began.")


def _ratio(actual: float, expected: float) -> str:
    return f"{actual / expected:.2f}" if expected else ""
