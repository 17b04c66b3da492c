"""What the model scores, against what one could have had without a search, and whether it keeps the constraints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.runs.exporting import Export
from evomerge.search.shrinkage import in_words

_OBJECTIVES = {
    "mean": "the weighted mean over tasks",
    "worst": "the lowest of the tasks",
    "pareto": "the weighted mean over tasks, which picked this model from the front of those that no other one beats",
}


def results(export: Export) -> str:
    """The section; empty without a search."""
    if export.result is not None:
        return _held_out(export.result, export.evaluation or {})
    if export.found is not None and export.found.objective is not None:
        return (
            "## Results\n\n"
            f"Trial {export.found.number} of a search. Its objective is {export.found.objective:.3f} on the documents "
            "that the search chose by, so expect less on others. It has not been compared on untouched documents.\n"
        )
    return ""


def _held_out(result: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    winner, tasks = result["winner"], list(result["winner"]["tasks"])
    low, high = winner["interval"]
    lines = [
        "## Results\n",
        f"On the documents of the split `{result['split']}`, which neither the search nor the choice of the winner "
        f"saw: {winner['objective']:.3f} [{low:.3f}, {high:.3f}]. The objective is "
        f"{_OBJECTIVES[evaluation.get('objective', 'mean')]}; intervals are bootstrap over documents, 95 %, those of "
        "gains paired.\n",
        f"| model | {' | '.join(tasks)} | objective | this model's gain |",
        f"|---|{'---|' * (len(tasks) + 2)}",
        _row("**this model**", [winner["tasks"][task][result["split"]] for task in tasks], winner["objective"], ""),
    ]
    for name, row in result["baselines"].items():
        low, high = row["difference_interval"]
        gain = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(_row(name, [row["tasks"][task] for task in tasks], row["objective"], gain))
    metrics = ", ".join(f"{task} by {winner['tasks'][task]['metric']}" for task in tasks)
    lines.append(f"\nScored with lm-evaluation-harness: {metrics}.")
    if sentence := in_words(result):
        lines.append(f"\n{sentence}")
    return "\n".join([*lines, *_constraints(result)]) + "\n"


def _constraints(result: Mapping[str, Any]) -> list[str]:
    if not result.get("constraints"):
        return []
    chosen = "keeps them all" if result["feasible"] else "does not keep them all, and neither does any other finalist,"
    lines = [
        "\n## Constraints\n",
        f"Measured on the same documents; this model {chosen} on the documents that it was chosen by. A bound set by "
        "another model is that model's score there, the margin included.\n",
        "| constraint | bound | this model | verdict |",
        "|---|---|---|---|",
    ]
    for name, row in result["constraints"].items():
        verdict = "kept" if row["kept"] else f"broken by {row['violation']:.3f}"
        lines.append(f"| {name} | {row['bound']:.3f} | {row['value']:.3f} | {verdict} |")
    return lines


def _row(name: str, values: list[float], objective: float, gain: str) -> str:
    return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} | {objective:.3f} | {gain} |"
