"""Where one number does not say it all: the Pareto front, constraints, and niches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.runs.console import short_names
from evomerge.runs.report.blocks import Block, Chart, Section, Table, Text
from evomerge.runs.report.drawing import BLUE, GREEN, GREY, NONE, ORANGE, count, label, labels, layout, number, small
from evomerge.runs.report.facts import Facts
from evomerge.search.study import CONSTRAINTS, TASKS, is_estimated, trial_violation

MEMBERS = 200  # of a front that are drawn as lines


def front(facts: Facts) -> Section | None:
    """The candidates that no other one beats; None: the objective is one number."""
    members = facts.told.get("front")
    if facts.config.evaluate.objective != "pareto" or not members:
        return None
    tasks = list(members[0]["tasks"])
    where = "search and select" if facts.result is not None else "search, so far"
    blocks: list[Block] = [
        Text(
            f"{count(len(members), 'candidate')} that no other one beats: none is as good in every task and better in "
            f"one. Scores on the documents of {where}. The first is the pick; any other can be exported by its number."
        )
    ]
    blocks.append(_plane(facts, members, tasks) if len(tasks) == 2 else _parallel(members, tasks))
    return Section("front", "The Pareto front", blocks)


def _table(members: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Table:
    rows = [[str(each["number"]), *(number(each["tasks"][task]) for task in tasks)] for each in members]
    return Table(["trial", *short_names(tasks)], rows, "The front.")


def _plane(facts: Facts, members: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Chart:
    """Two tasks: a point for each candidate."""
    ahead = {each["number"] for each in members}
    others = [trial for trial in facts.scored if trial.number not in ahead and TASKS in trial.user_attrs]
    keeping = [trial for trial in others if trial_violation(trial) == 0]
    breaking = [trial for trial in others if trial_violation(trial) > 0]
    order = sorted(members, key=lambda each: float(each["tasks"][tasks[0]]))

    def values(trials: Sequence[Any], task: str) -> list[float | None]:
        return small(float(trial.user_attrs[TASKS][task]["value"]) for trial in trials)

    traces = [
        {
            "name": name,
            "x": values(trials, tasks[0]),
            "y": values(trials, tasks[1]),
            "text": [f"trial {trial.number}{', estimated' if is_estimated(trial) else ''}" for trial in trials],
            "mode": "markers",
            "marker": marker,
        }
        for name, trials, marker in (
            ("other candidates", keeping, {"color": GREY, "size": 6, "symbol": "circle-open"}),
            ("breaks a constraint", breaking, {"color": ORANGE, "size": 7, "symbol": "x"}),
        )
        if trials
    ]
    traces.append(
        {
            "name": "front",
            "x": small(float(each["tasks"][tasks[0]]) for each in order),
            "y": small(float(each["tasks"][tasks[1]]) for each in order),
            "text": [f"trial {each['number']}" for each in order],
            "mode": "lines+markers",
            "line": {"color": GREEN, "width": 1.5},
            "marker": {"color": BLUE, "size": 10},
        }
    )
    hover = {"type": "scatter", "hovertemplate": "%{text}: %{x:.3f}, %{y:.3f}<extra></extra>"}
    return Chart(
        "front",
        "Candidates by their scores in both tasks.",
        f"A front of {count(len(members), 'candidate')}; the table has their scores.",
        [{**trace, **hover} for trace in traces],
        layout(420, label(tasks[0]), label(tasks[1])),
        _table(members, tasks),
    )


def _parallel(members: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Chart:
    """More tasks: a line for each candidate over them."""
    drawn = members[:MEMBERS]
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"trial {each['number']}",
            "x": labels(short_names(tasks)),
            "y": small(float(each["tasks"][task]) for task in tasks),
            "line": {"color": BLUE if place == 0 else GREY, "width": 3 if place == 0 else 1},
            "hovertemplate": "%{fullData.name}, %{x}: %{y:.3f}<extra></extra>",
            "showlegend": False,
        }
        for place, each in enumerate(drawn)
    ][::-1]
    left = f" ({len(members) - len(drawn)} more are in the table)" if len(members) > len(drawn) else ""
    return Chart(
        "front",
        f"The front over the tasks, a line for each candidate; blue: the pick{left}.",
        f"A front of {count(len(members), 'candidate')} over {count(len(tasks), 'task')}; the table has their scores.",
        lines,
        layout(380, "", "score", xaxis={"type": "category"}),
        _table(members, tasks),
    )


def constraints(facts: Facts) -> Section | None:
    """Whether the winner keeps what it must; None: nothing is asked of it."""
    if not facts.config.evaluate.constraints:
        return None
    known = [trial for trial in facts.scored if trial.user_attrs.get(CONSTRAINTS)]
    kept = sum(trial_violation(trial) == 0 for trial in known)
    blocks: list[Block] = [Text(f"{kept:,} of {count(len(known), 'candidate')} keep all constraints on search.")]
    best = facts.told["best"]
    if best is None:
        return Section("constraints", "Constraints", blocks)
    rows = [_verdict(name, row) for name, row in best["constraints"].items()]
    where = best["split"]
    keeps = "keeps them all" if best["feasible"] else "does not keep them all"
    blocks.append(Text(f"{facts.who[0].upper()}{facts.who[1:]} {keeps} on the documents that it was chosen by."))
    head = ["constraint", "bound", "winner", "margin", "reference", "verdict"]
    blocks.append(Table(head, rows, f"How it does on {where}.", texts=[4, 5]))
    return Section("constraints", "Constraints", blocks)


def _verdict(name: str, row: Mapping[str, Any]) -> list[str]:
    verdict = "kept" if row["kept"] else f"BROKEN by {row['violation']:.3f}"
    numbers = [number(row.get(key)) for key in ("bound", "value", "margin")]
    return [name, *numbers, str(row.get("reference", NONE)), verdict]


def niches(facts: Facts) -> Section | None:
    """The members of the archive of different skills; None: the sampler keeps none."""
    members = facts.told.get("niches")
    if not members:
        return None
    tasks = list(members[0]["tasks"])
    rows = [
        [str(each["number"]), number(each["fitness"]), number(each["objective"])]
        + [f"{number(each['tasks'][task])} ({each['leads'][task]})" for task in tasks]
        for each in members
    ]
    table = Table(["trial", "fitness", "objective", *short_names(tasks)], rows, "The archive, the fittest first.")
    told = (
        "The search kept candidates with different skills. A member's fitness counts a document the more, the fewer "
        "others solve it; in brackets: documents that it solves and at most a quarter of the others do."
    )
    return Section("niches", "Niches", [Text(told), table])
