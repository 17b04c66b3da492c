"""How far the experts pull in different directions, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.runs.report.blocks import Block, Bullets, Chart, Section, Table, Text
from evomerge.runs.report.drawing import SIGNED, count, labels, layout, number, shortened, small
from evomerge.runs.report.facts import CONFLICT, Facts

PAIRS = 120  # in a chart, of the experts' pairs: those that agree least

LEAST_REACH = 0.1  # of the colours from the middle, so that nothing looks like something
WRITTEN = 72  # cells that have their number written in them at most

_MEASURES = {
    "cosine": ("Cosine of the task vectors: 1 the same direction, 0 none in common, below 0 against each other.", 0.0),
    "signs": ("Share of parameters that both move in the same direction: 0.5 is what chance gives.", 0.5),
}


def conflict(facts: Facts) -> Section | None:
    """Cosine and sign agreement of the experts by layer, with advice; None: nobody has measured them."""
    told = facts.kept.get(CONFLICT)
    if not told or not told.get("pairs"):
        return None
    layers = [str(layer) for layer in told["layers"]]
    blocks: list[Block] = [
        Text("Each expert's weights minus the base's are its task vector; where two disagree, one loses by merging.")
    ]
    for key, (caption, middle) in _MEASURES.items():
        pairs = [pair for pair in told["pairs"] if pair.get(key)]
        if pairs:
            blocks.append(_map(pairs, layers, key, caption, middle))
    if told.get("advice"):
        blocks += [Text("What follows for the method:"), Bullets([str(line) for line in told["advice"]])]
    return Section("conflict", "Conflict between experts", blocks)


def _map(pairs: Sequence[Mapping[str, Any]], layers: Sequence[str], key: str, caption: str, middle: float) -> Chart:
    """Pairs by layers; white is `middle`, and the colours reach as far from it as the numbers do."""
    ranked = sorted(pairs, key=lambda pair: _mean(pair[key]))
    shown = ranked[:PAIRS]
    names = labels([f"{shortened(pair['a'], 12)} / {shortened(pair['b'], 12)}" for pair in shown], 28)
    measured = [place for place in range(len(layers)) if _known([pair[key][place] for pair in shown])]
    values = [[pair[key][place] for place in measured] for pair in shown]
    reach = max([LEAST_REACH, *(abs(value - middle) for row in values for value in _known(row))])
    data = {
        "type": "heatmap",
        "z": [small(row) for row in values[::-1]],
        "x": labels([layers[place] for place in measured], 16),
        "y": names[::-1],
        "colorscale": SIGNED,
        "zmin": middle - reach,
        "zmax": middle + reach,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{y}, %{x}: %{z:.3f}<extra></extra>",
        **({"texttemplate": "%{z:.2f}"} if len(shown) * len(measured) <= WRITTEN else {}),
    }
    worst = ranked[0]
    left = f" The {PAIRS} pairs of {len(pairs)} that agree least." if len(pairs) > PAIRS else ""
    rows = [[f"{pair['a']} / {pair['b']}", number(_mean(pair[key])), number(_least(pair[key]))] for pair in shown]
    return Chart(
        f"conflict-{key}",
        f"{caption}{left}",
        f"{key} of {count(len(pairs), 'pair')} by layer; least, {number(_mean(worst[key]))} in the mean, for "
        f"{shortened(worst['a'], 60)} and {shortened(worst['b'], 60)}.",
        [data],
        layout(
            110 + (30 if len(shown) <= 20 else 16) * len(shown),
            xaxis={"type": "category", "nticks": 12},
            yaxis={"type": "category", "ticksuffix": " "},
        ),
        Table(["pair", "mean", "least layer"], rows, f"{key.capitalize()} over layers."),
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _mean(values: Sequence[float | None]) -> float:
    known = _known(values)
    return sum(known) / len(known) if known else math.inf


def _least(values: Sequence[float | None]) -> float:
    return min(_known(values), default=math.nan)
