"""The answer first: how much better the winner is, on documents that nothing saw before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.runs.console import short_names
from evomerge.runs.report.blocks import Block, Bullets, Chart, Section, Table, Text
from evomerge.runs.report.drawing import BLUE, GREY, count, interval, labels, layout, number, shortened, signed, small
from evomerge.runs.report.facts import Facts
from evomerge.search.shrinkage import in_words

Row = Mapping[str, Any]
TASKS_SHOWN = 40  # in the table; with more of them it has the objective alone
SHOWN = 20  # baselines in a chart; the table has them all


def answer(facts: Facts) -> Section:
    """The first section: the comparison, or what is known before there is one."""
    if facts.result is None:
        return Section("answer", "The answer", _so_far(facts))
    rows = _rows(facts.result)
    blocks: list[Block] = [Text(verdict(facts.result), "lead"), Text(_basis(facts), "note")]
    if rows:
        blocks.append(_gains(rows))
    blocks.append(_scores(facts, rows))
    if words := in_words(facts.result):
        blocks.append(Text(words))
    if facts.is_open:
        blocks.append(Text("The search goes on: this is the comparison of its last end.", "bad"))
    return Section("answer", "The answer", blocks)


def verdict(result: Mapping[str, Any]) -> str:
    """One honest sentence: better than everything it is compared with, or than what it is not shown to be."""
    rows, score = _rows(result), number(result["winner"]["objective"])
    if not rows:
        return f"The winner scores {score}; there is nothing that it is compared with."
    name, closest = rows[0]
    ahead = [name for name, row in rows if row["difference_interval"][0] > 0]
    behind = [name for name, row in rows if row["difference_interval"][1] < 0]
    unclear = [name for name, _ in rows if name not in ahead and name not in behind]
    gain = f"{signed(closest['difference'])}, 95 % interval {interval(closest['difference_interval'], sign=True)}"
    if len(ahead) == len(rows):
        best = f"the best of them, {shortened(name, 60)}," if len(rows) > 1 else "which"
        what = f"all {len(rows)} models it is compared with" if len(rows) > 1 else shortened(name, 60)
        has = f"{best} has {number(closest['objective'])} ({gain})"
        return f"The winner scores {score} and is better than {what}: {has}."
    over = f"{shortened(name, 60)} has {number(closest['objective'])} ({gain})"
    if behind:
        return f"The winner scores {score} and is worse than {_listed(behind)}: {over}."
    better = f", and better than {_listed(ahead)}" if ahead else ""
    return f"The winner scores {score} and is not shown to be better than {_listed(unclear)}: {over}{better}."


def _listed(names: list[str]) -> str:
    shown = [shortened(name, 60) for name in names[:3]]
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    together = [*shown, *more]
    return together[0] if len(together) == 1 else f"{', '.join(together[:-1])} and {together[-1]}"


def _rows(result: Mapping[str, Any]) -> list[tuple[str, Row]]:
    """What the winner is compared with, the best first."""
    return sorted(result["baselines"].items(), key=lambda item: -float(item[1]["objective"]))


def _basis(facts: Facts) -> str:
    assert facts.result is not None
    documents = facts.documents_compared
    of = f"{count(documents, 'document')} of the split {facts.result['split']}" if documents else "documents"
    untouched = (
        "which neither the search nor the choice of the winner saw"
        if facts.result["split"] == "report"
        else "on which the search chose it, so that the gains are too high (there is no split report)"
    )
    return (
        f"Measured on {of}, {untouched}. Gains are the winner's score minus the other's, with paired 95 % bootstrap "
        "intervals, each of its own: of many intervals some may miss by chance."
    )


def _gains(rows: list[tuple[str, Row]]) -> Chart:
    """One line a model: its interval's ends and the gain between them."""
    shown = rows[:SHOWN][::-1]
    names = labels([name for name, _ in shown])
    gains = [float(row["difference"]) for _, row in shown]
    lows, highs = zip(*(row["difference_interval"] for _, row in shown), strict=True)
    clear = [low > 0 for low in lows]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": small(gains),
        "y": names,
        "marker": {"size": 11, "color": [BLUE if each else GREY for each in clear]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": small(high - gain for high, gain in zip(highs, gains, strict=True)),
            "arrayminus": small(gain - low for low, gain in zip(lows, gains, strict=True)),
            "thickness": 2,
            "color": GREY,
        },
        "hovertemplate": "%{y}: %{x:+.3f}<extra></extra>",
        "showlegend": False,
    }
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": GREY, "dash": "dot"}}
    best, row = rows[0]
    left = f" The table has {len(rows) - SHOWN} more, all further behind." if len(rows) > SHOWN else ""
    return Chart(
        "gains",
        f"The winner's gain over each model; blue where the interval lies above zero.{left}",
        f"Gains with intervals. Over the best other model, {best}: {signed(row['difference'])} "
        f"{interval(row['difference_interval'], sign=True)}. The table below has all of them.",
        [points],
        layout(90 + 30 * len(shown), "gain of the winner", shapes=[zero], yaxis={"type": "category"}),
    )


def _scores(facts: Facts, rows: list[tuple[str, Row]]) -> Table:
    assert facts.result is not None
    winner, split = facts.result["winner"], facts.result["split"]
    tasks = list(winner["tasks"])
    kept = tasks if len(tasks) <= TASKS_SHOWN else []
    names = [shortened(name) for name in short_names(kept)]
    head = ["model", *names, "objective", "winner's gain", "95 % interval"]
    told = [
        [
            f"winner (trial {winner['number']})",
            *(number(winner["tasks"][task][split]) for task in kept),
            number(winner["objective"]),
            "",
            "",
        ]
    ]
    for name, row in rows:
        cells = [number(row["tasks"][task]) for task in kept]
        broken = "" if row.get("feasible", True) else " (breaks a constraint)"
        gain = [signed(row["difference"]), interval(row["difference_interval"], sign=True)]
        told.append([f"{name}{_budget(row)}{broken}", *cells, number(row["objective"]), *gain])
    return Table(head, told, f"Scores on the split {split}.", strong=[0])


def _budget(row: Row) -> str:
    """Of another search what it had."""
    return f" ({row['trials']:,} trials, {row['documents']:,} documents)" if "trials" in row else ""


def _so_far(facts: Facts) -> list[Block]:
    trials = facts.told["trials"]
    ended = trials["complete"] + trials["pruned"] + trials["failed"]
    state = "is under way" if facts.told["state"] == "running" else "has not ended"
    blocks: list[Block] = [
        Text(f"There is no answer yet: the search {state}, {ended} of {trials['total']} trials have ended.", "lead")
    ]
    best = facts.told["best"]
    if best is None:
        failed = f"All {count(ended, 'trial')} failed." if ended else "No trial has ended."
        reasons = [f"{reason} ({count(times, 'trial')})" for reason, times in facts.failures[:3]]
        return [*blocks, Text(f"{failed} There is nothing to show.", "bad"), *([Bullets(reasons)] if reasons else [])]
    error = f" ± {best['stderr']:.3f}" if "stderr" in best else ""
    estimated = ", an estimate" if best["estimated"] else ""
    blocks.append(
        Text(
            f"The best so far is trial {best['number']} with {best['objective']:.3f}{error} on the documents of the "
            f"search{estimated}. That flatters it: it is the best of many on the very documents that chose it."
        )
    )
    rows = [[task, row["metric"], number(row["search"])] for task, row in best["tasks"].items()]
    blocks.append(Table(["task", "metric", "search"], rows, "The best so far.", texts=[1]))
    return blocks
