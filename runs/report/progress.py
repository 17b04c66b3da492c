"""How the search came forward: over trials, and over documents scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from optuna.trial import FrozenTrial

from evomerge.runs.report.blocks import Block, Chart, Section, Table, Text
from evomerge.runs.report.drawing import BLUE, GREEN, GREY, ORANGE, count, label, layout, number, small
from evomerge.runs.report.facts import Facts
from evomerge.search.curriculum import STAGE
from evomerge.search.sampling import in_order_of_telling
from evomerge.search.study import ORIGIN, PRUNED, SCORED, is_estimated, trial_objective, trial_violation

STAGES_NAMED = 8  # beginnings of stages that a chart marks
RECORDS = 30  # rows of the table
CROWDED = 1000  # trials in a chart, from which on each is drawn smaller


def progress(facts: Facts) -> Section | None:
    """The section with both charts; None: no trial has a score."""
    if not facts.scored:
        return None
    trials = in_order_of_telling(facts.scored)
    records = _records(facts, trials)
    by_documents = list(accumulate(int(trial.user_attrs.get(SCORED, [0, 0])[0]) for trial in trials))
    documents = facts.told["documents"]
    saved = 1 - documents["scored"] / documents["full"] if documents["full"] else 0.0
    blocks: list[Block] = [
        Text(
            f"{count(len(trials), 'trial')} of {facts.told['trials']['total']:,} with a score, "
            f"{sum(is_estimated(trial) for trial in trials):,} of them estimated from part of the documents or by a "
            f"stand-in. {documents['scored']:,} documents were scored, {saved:.0%} fewer than all of them in every "
            "trial. Scores are those of the split search, which the search itself chose by."
        ),
        _over_trials(facts, trials, records),
    ]
    if by_documents[-1]:
        blocks.append(_over_documents(by_documents, trials, records))
    return Section("progress", "Progress", blocks)


def _records(facts: Facts, trials: Sequence[FrozenTrial]) -> list[tuple[int, float]]:
    """(place, objective) of trials that were the best so far of those scored in full that keep the constraints."""
    best = -float("inf")
    found = []
    for place, trial in enumerate(trials):
        value = trial_objective(trial, facts.tasks)
        if not is_estimated(trial) and trial_violation(trial) == 0 and value > best:
            best = value
            found.append((place, value))
    return found


def _over_trials(facts: Facts, trials: Sequence[FrozenTrial], records: Sequence[tuple[int, float]]) -> Chart:
    kinds: dict[str, list[int]] = {name: [] for name in _KINDS}
    for place, trial in enumerate(trials):
        kinds[_kind(trial)].append(place)
    data = [_points(facts, name, trials, places) for name, places in kinds.items() if places]
    if records:
        data.append(_line([1 + place for place, _ in records], records, len(trials)))
    starts = _stages(trials)
    shapes, texts = [], []
    for begun, name in starts if len(starts) <= STAGES_NAMED else []:
        line = {"color": GREY, "width": 1, "dash": "dot"}
        shapes.append({"type": "line", "x0": begun, "x1": begun, "yref": "paper", "y0": 0, "y1": 1, "line": line})
        texts.append(_at(begun, name))
    best = "none of them is best"
    if records:
        place, value = records[-1]
        best = f"the best is trial {trials[place].number} with {number(value)}"
    rows = [
        [str(trials[place].number), number(value), _origin(trials[place]), _stage(trials[place])]
        for place, value in records
    ]
    caption = "Trials that were the best so far."
    if len(rows) > RECORDS:
        caption = f"The last {RECORDS} of {len(rows)} trials that were the best so far."
    table = Table(["trial", "objective", "proposed by", "stage"], rows[-RECORDS:], caption, texts=[2, 3])
    return Chart(
        "over-trials",
        "Objective of the trials in the order in which they ended; the line is the best so far"
        f"{'. Dotted lines: a stage of the search begins' if starts else ''}.",
        f"The objective of {count(len(trials), 'trial')}; {best}.",
        data,
        layout(380, "trials with a score", "objective on search", shapes=shapes, annotations=texts),
        table if rows else None,
    )


def _over_documents(
    documents: Sequence[int], trials: Sequence[FrozenTrial], records: Sequence[tuple[int, float]]
) -> Chart:
    data = [_line([documents[place] for place, _ in records], records, documents[-1])] if records else []
    half = next((documents[place] for place, value in records if value >= records[-1][1]), 0)
    return Chart(
        "over-documents",
        "The best so far by documents scored in the trials: what the search paid for it."
        " (Those that finalists lacked were scored at the end, and are not in it.)",
        f"The best score so far over {documents[-1]:,} documents; the last best was found after {half:,}.",
        data,
        layout(280, "documents scored", "best so far", showlegend=False, xaxis={"rangemode": "tozero"}),
        Table(
            ["documents", "trial", "best so far"],
            [
                [f"{documents[place]:,}", str(trials[place].number), number(value)]
                for place, value in records[-RECORDS:]
            ],
            "When the best was found.",
        ),
    )


_KINDS: Mapping[str, Mapping[str, Any]] = {
    "scored in full": {"color": BLUE, "size": 8},
    "estimated": {"color": GREY, "size": 6, "symbol": "circle-open"},
    "stopped early": {"color": GREY, "size": 6, "symbol": "triangle-down-open"},
    "breaks a constraint": {"color": ORANGE, "size": 8, "symbol": "x"},
}


def _kind(trial: FrozenTrial) -> str:
    if trial_violation(trial) > 0:
        return "breaks a constraint"
    if trial.user_attrs.get(PRUNED):
        return "stopped early"
    return "estimated" if is_estimated(trial) else "scored in full"


def _points(facts: Facts, name: str, trials: Sequence[FrozenTrial], places: Sequence[int]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} ({len(places):,})",
        "x": [1 + place for place in places],
        "y": small(trial_objective(trials[place], facts.tasks) for place in places),
        "text": [f"trial {trials[place].number}, {label(_origin(trials[place]))}" for place in places],
        "marker": {**_KINDS[name], **({"size": 4, "opacity": 0.6} if len(trials) > CROWDED else {})},
        "hovertemplate": "%{text}: %{y:.4f}<extra></extra>",
    }


def _line(places: Sequence[int], records: Sequence[tuple[int, float]], end: int) -> dict[str, Any]:
    values = [value for _, value in records]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [*places, max(end, places[-1])],
        "y": small([*values, values[-1]]),
        "line": {"color": GREEN, "width": 2.5, "shape": "hv"},
        "hovertemplate": "best so far at %{x}: %{y:.4f}<extra></extra>",
    }


def _stages(trials: Sequence[FrozenTrial]) -> list[tuple[float, str]]:
    """(how many trials had ended, name) where each stage of the curriculum begins."""
    found: dict[tuple[int, str], float] = {}
    for place, trial in enumerate(trials):
        if (step := trial.user_attrs.get(STAGE)) is not None:
            found.setdefault((int(step["index"]), str(step["name"])), place + 0.5)
    return sorted((begun, name) for (_, name), begun in found.items())


def _at(place: float, name: str) -> dict[str, Any]:
    return {
        "x": place,
        "xref": "x",
        "y": 0.02,
        "yref": "paper",
        "text": label(name),
        "textangle": -90,
        "showarrow": False,
        "xanchor": "left",
        "yanchor": "bottom",
        "font": {"size": 10},
    }


def _origin(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(ORIGIN) or "sampler")


def _stage(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get(STAGE, {}).get("name", ""))
