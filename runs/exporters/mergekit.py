"""mergekit.yaml: the same merge for mergekit, where it can express it exactly."""

from __future__ import annotations

from typing import Any

import yaml

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.runs.exporting import Export, exporter

_BASELESS = {"linear", "passthrough"}
_EXACT = {"breadcrumbs", "breadcrumbs_ties", "linear", "model_stock", "multislerp", "nearswap", "nuslerp"}
_EXACT |= {"passthrough", "slerp", "task_arithmetic", "ties"}


@exporter("mergekit.yaml")
def mergekit(export: Export) -> str | None:
    """A mergekit configuration, or None where there is no exact one.

    There is one for methods without random masks that compute the same in both, to rounding and to ties at thresholds.
    That is not so where groups of layers or modules have numbers of their own, where masks are random (mergekit draws
    others), and for methods mergekit has no twin of.
    """
    recipe = export.recipe
    if recipe.method not in _EXACT or len(recipe.groups) != 1 or recipe.stack is not None:
        return None
    return yaml.safe_dump(_configuration(recipe), sort_keys=False, width=120)


def _configuration(recipe: Recipe) -> dict[str, Any]:
    numbers = recipe.groups[0].parameters
    method = METHODS.get(recipe.method)
    per_model = {name: value for name, value in numbers.items() if method.parameter(name).per_expert}
    told: dict[str, Any] = {"merge_method": recipe.method}
    models = [
        {"model": _reference(expert), "parameters": {name: _of(value, expert) for name, value in per_model.items()}}
        for expert in recipe.experts
    ]
    if recipe.method not in _BASELESS and recipe.options.get("task_vectors", True):
        told["base_model"] = _reference(recipe.base)
        models.insert(0, {"model": _reference(recipe.base)})
    told["models"] = models
    told["parameters"] = {**_their(recipe), **{name: value for name, value in numbers.items() if name not in per_model}}
    return {**told, "dtype": recipe.dtype, "tokenizer_source": _reference(recipe.base)}


def _their(recipe: Recipe) -> dict[str, Any]:
    """The options under mergekit's names."""
    options = {name: value for name, value in recipe.options.items() if name != "task_vectors"}
    if recipe.method == "nuslerp":
        options["nuslerp_flatten"] = not options.pop("row_wise", False)
    if recipe.method == "multislerp" and "normalize" in options:
        options["normalize_weights"] = options.pop("normalize")
    return options


def _of(value: float | dict[str, float], expert: ModelRef) -> float:
    return value[expert.name] if isinstance(value, dict) else value


def _reference(model: ModelRef) -> str:
    """mergekit's notation: model@revision+adapter."""
    revision = f"@{model.revision}" if model.revision else ""
    return f"{model.model}{revision}{'+' + model.adapter if model.adapter else ''}"
