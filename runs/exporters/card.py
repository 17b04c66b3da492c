"""README.md: the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.runs.exporting import Export, exporter
from evomerge.runs.files import as_yaml
from evomerge.search.shrinkage import in_words

_OBJECTIVES = {
    "mean": "the weighted mean over tasks",
    "worst": "the lowest of the tasks",
    "pareto": "the weighted mean over tasks, which picked this model from the front of those that no other one beats",
}


@exporter("README.md")
def card(export: Export) -> str:
    """A card with the hub's metadata, the held-out results with their intervals, the recipe and the limits."""
    parts = [_metadata(export.recipe), _what(export)]
    if export.result is not None:
        parts.append(_results(export.result, export.evaluation or {}))
    parts += [_recipe(export.recipe), _limits(export)]
    return "\n".join(parts)


def _metadata(recipe: Recipe) -> str:
    sources = [_public(model) for model in (recipe.base, *recipe.experts)]
    told = {
        "base_model": list(dict.fromkeys(sources)),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "evomerge", recipe.method],
    }
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---\n"


def _what(export: Export) -> str:
    experts = ", ".join(f"`{_public(expert)}`" for expert in export.recipe.experts)
    found = "found by an evolutionary search with evomerge" if export.result is not None else "merged with evomerge"
    return (
        f"# {export.name}\n\n"
        f"A merge of {experts} on the base `{_public(export.recipe.base)}`, {found}. "
        f"Method: {export.recipe.method}; {export.parameters:,} parameters in {export.recipe.dtype}.\n"
    )


def _results(result: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    winner, tasks = result["winner"], list(result["winner"]["tasks"])
    lines = [
        "## Results\n",
        f"On the documents of the split `{result['split']}`, which neither the search nor the choice of the winner "
        f"saw. The objective is {_OBJECTIVES[evaluation.get('objective', 'mean')]}; intervals are paired bootstrap, "
        "95 %.\n",
        f"| model | {' | '.join(tasks)} | objective | this model's gain |",
        f"|---|{'---|' * (len(tasks) + 2)}",
        _row("**this model**", [winner["tasks"][task][result["split"]] for task in tasks], winner["objective"], ""),
    ]
    for name, row in result["baselines"].items():
        low, high = row["difference_interval"]
        gain = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append(_row(name, [row["tasks"][task] for task in tasks], row["objective"], gain))
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


def _recipe(recipe: Recipe) -> str:
    return f"## Recipe\n\n`evomerge merge recipe.yaml --to DIR` makes it again.\n\n```yaml\n{as_yaml(recipe)}```\n"


def _limits(export: Export) -> str:
    measured = (
        "The scores above hold for these tasks; abilities they do not measure may have been lost."
        if export.result is not None
        else "Nothing has been measured."
    )
    return (
        f"## Limits\n\n{measured} A merge inherits the biases and the licence terms of all its sources: read theirs "
        "before you use or publish it.\n"
    )


def _public(model: ModelRef) -> str:
    """A hub id as it is; of a local folder its name only."""
    source = model.adapter or model.model
    return Path(source).name if Path(source).is_absolute() else source
