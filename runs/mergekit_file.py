"""A recipe in mergekit's words, if mergekit then computes the same to rounding and to ties at thresholds.

It has none where masks are random (mergekit draws others), for methods without an exact twin, for scaled or borrowed
layers in a stack, and for a union of vocabularies (mergekit orders its tokens differently).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from evomerge.engine.layers import Place, assign
from evomerge.engine.method import METHODS
from evomerge.engine.recipe import MERGED, ModelRef, Recipe
from evomerge.runs.exporting import Export
from evomerge.runs.mergekit_settings import InexpressibleError, setting_of
from evomerge.search.mergekit_parameters import METHODS as THEIRS
from evomerge.search.mergekit_parameters import parameters_of
from evomerge.search.slices import Shape

RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
SAMPLED = 1_000_000
"""Elements of a tensor above which mergekit takes arcee_fusion's thresholds from a random sample."""

CANCELLED = 1e-6
HEADER = (
    "# The same merge for mergekit 0.1.5: float32 arithmetic, rounded once. The weights agree to rounding.\n"
    "# mergekit-yaml mergekit.yaml DIR\n"
)


class MergekitFile(NamedTuple):
    """The file's text; or None, and why there is none."""

    text: str | None
    why_not: str = ""


def mergekit_file(export: Export) -> MergekitFile:
    """mergekit.yaml of an export."""
    try:
        told = _configuration(export)
    except InexpressibleError as error:
        return MergekitFile(None, str(error))
    return MergekitFile(HEADER + yaml.dump(told, Dumper=_Flow, sort_keys=False, width=120))


class _Flow(yaml.SafeDumper):
    """Lists of numbers in one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        numbers = all(isinstance(entry, int | float) for entry in sequence)
        return super().represent_sequence(tag, sequence, flow_style=numbers or flow_style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _configuration(export: Export) -> dict[str, Any]:
    recipe = export.recipe
    if recipe.method not in THEIRS:
        raise InexpressibleError(f"the method {recipe.method}, which it lacks")
    if recipe.method == "sce":
        raise InexpressibleError("sce as it is computed here: it weights experts equally where their changes are small")
    if recipe.method == "arcee_fusion" and export.largest > SAMPLED:
        raise InexpressibleError("arcee_fusion as it is computed here: it samples tensors of over a million elements")
    if recipe.stack is not None and any(layer.scale != 1.0 for layer in recipe.stack):
        raise InexpressibleError("scales of stacked layers")
    if recipe.stack is not None and any(layer.source != MERGED for layer in recipe.stack):
        raise InexpressibleError("stacked layers that are another model's as they are")
    method = METHODS.get(recipe.method)
    names = [expert.name for expert in recipe.experts]
    bound = [method.bind(group.parameters, recipe.options, names) for group in recipe.groups]
    for values in bound:
        _check_numbers(recipe, values)
    body = _models(export, bound) if len(bound) == 1 and recipe.stack is None else _by_layer(export, bound)
    told: dict[str, Any] = {"merge_method": recipe.method}
    if _has_base(recipe):
        told["base_model"] = reference(recipe.base)
    return {**told, **body, "dtype": "float32", "out_dtype": recipe.dtype, **_tokenizer(export)}


def _check_numbers(recipe: Recipe, values: Mapping[str, Any]) -> None:
    """Raise InexpressibleError where mergekit would make something else of these numbers."""
    if recipe.method in RANDOM and any(density < 1.0 for density in values["density"]):
        raise InexpressibleError("random masks, which it draws differently")
    if recipe.method == "ram" and values["lambda"] != 1.0:
        raise InexpressibleError("lambda of ram, which it lacks")
    if recipe.method == "karcher" and (
        len(set(values["weight"])) > 1 or values["task_vectors"] or not values["weight"][0]
    ):
        raise InexpressibleError("karcher with weights or on task vectors, which it lacks")
    if recipe.method in ("linear", "multislerp", "nuslerp"):
        weights = values["weight"]
        cancelled = abs(sum(weights)) <= CANCELLED * sum(map(abs, weights))
        normalized = values.get("normalize", True)
        if not any(weights) or (normalized and cancelled and recipe.method != "nuslerp"):
            raise InexpressibleError("weights that cancel, which here give the base")
        if recipe.method == "multislerp" and len(weights) == 1 and not normalized and weights[0] != 1.0:
            raise InexpressibleError("the weight of a single model under multislerp")


def _models(export: Export, bound: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same numbers for all tensors."""
    recipe = export.recipe
    per_model, shared = _split(recipe, lambda name, expert: _number(recipe, bound[0], name, expert))
    return {
        "models": [{"model": model, **({"parameters": own} if own else {})} for model, own in per_model],
        "parameters": {**_switches(recipe, bound[0]), **shared},
    }


def _by_layer(export: Export, bound: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers by layer and module: filters and gradients; slices where the layers are stacked."""
    recipe = export.recipe
    shape = export.shape
    if shape is None:
        raise InexpressibleError("numbers by layer, since the layers are not named by number")
    group_of = _groups(recipe, shape)
    order = [layer.layer for layer in recipe.stack] if recipe.stack else list(range(len(shape.layers)))
    pieces = []
    for start, stop in _runs(order):

        def one(name: str, expert: int | None, span: tuple[int, int] = (start, stop)) -> Any:
            return setting_of(
                [
                    {
                        path: _number(recipe, bound[group_of[_full(shape, i, path)]], name, expert)
                        for path in shape.layers[i]
                    }
                    for i in range(*span)
                ],
                {outer: _number(recipe, bound[group_of[outer]], name, expert) for outer in shape.outside},
                [f"{shape.prefix}{i}." for i in range(*span)],
            )

        pieces.append((start, stop, *_split(recipe, one)))
    switches = _switches(recipe, bound[0])
    if recipe.stack is None:
        _, _, per_model, shared = pieces[0]
        models = [{"model": model, **({"parameters": own} if own else {})} for model, own in per_model]
        return {"models": models, "parameters": {**switches, **shared}}
    slices = [
        {
            "sources": [
                {"model": model, "layer_range": [start, stop], **({"parameters": own} if own else {})}
                for model, own in per_model
            ],
            **({"parameters": shared} if shared else {}),
        }
        for start, stop, per_model, shared in pieces
    ]
    return {"slices": slices, **({"parameters": switches} if switches else {})}


def _groups(recipe: Recipe, shape: Shape) -> dict[str, int]:
    """The position of each parameter's group, by its whole name."""
    places = {name: Place(None, name) for name in shape.outside}
    for layer, paths in enumerate(shape.layers):
        places |= {_full(shape, layer, path): Place(layer, path) for path in paths}
    return assign(recipe.groups, places, len(shape.layers))


def _full(shape: Shape, layer: int, path: str) -> str:
    return f"{shape.prefix}{layer}.{path}"


def _runs(order: Sequence[int]) -> list[tuple[int, int]]:
    """[start, stop) of the layers that follow each other."""
    found: list[tuple[int, int]] = []
    for layer in order:
        if found and found[-1][1] == layer:
            found[-1] = (found[-1][0], layer + 1)
        else:
            found.append((layer, layer + 1))
    return found


def _split(recipe: Recipe, one: Any) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """The settings of each model by its reference, and those that all share.

    Args:
        recipe: what is written.
        one: gives the setting of a parameter, by our name, of the expert in that place; None: of all.
    """
    parameters = [parameter for parameter in parameters_of(recipe.method) if not parameter.switch]
    per_model = [parameter for parameter in parameters if parameter.per_model]
    models = [
        (reference(expert), {parameter.theirs: one(parameter.ours, place) for parameter in per_model})
        for place, expert in enumerate(recipe.experts)
    ]
    if _has_base(recipe) and not (recipe.method == "linear" and reference(recipe.base) in dict(models)):
        own = {"weight": 0.0} if recipe.method == "linear" else {}
        models.insert(0, (reference(recipe.base), own))
    return models, {parameter.theirs: one(parameter.ours, None) for parameter in parameters if not parameter.per_model}


def _number(recipe: Recipe, values: Mapping[str, Any], name: str, expert: int | None) -> float:
    value = values[name]
    return float(value[expert]) if isinstance(value, tuple) and expert is not None else float(value)


def _has_base(recipe: Recipe) -> bool:
    """Whether the file names the base: where it has a part; with `linear` and the weight 0, for its configuration."""
    if recipe.method in ("karcher", "passthrough"):
        return False
    return bool(recipe.options.get("task_vectors", True))


def _switches(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options under mergekit's names, defaults included."""
    if recipe.method == "karcher":
        return {"max_iter": 100, "tol": 1e-7}
    told = {}
    for parameter in parameters_of(recipe.method):
        if parameter.switch and parameter.theirs == "rescale":
            told["rescale"] = False
        elif parameter.theirs == "nuslerp_flatten":
            told["nuslerp_flatten"] = not values["row_wise"]
        elif parameter.switch and parameter.ours in values:
            told[parameter.theirs] = values[parameter.ours]
    return told


def _tokenizer(export: Export) -> dict[str, str]:
    """Nothing where all vocabularies are the base's: mergekit then leaves the rows as they are."""
    recipe = export.recipe
    if recipe.tokenizer == "base":
        return {}
    if recipe.tokenizer == "union":
        raise InexpressibleError("a union of vocabularies, whose tokens it orders differently")
    if export.tokens != export.rows:
        raise InexpressibleError("rows of the embedding without a token, which it cuts off")
    return {"tokenizer_source": next(reference(e) for e in recipe.experts if e.name == recipe.tokenizer)}


def reference(model: ModelRef) -> str:
    """mergekit's notation: model@revision+adapter."""
    revision = f"@{model.revision}" if model.revision else ""
    adapter = f"+{model.adapter}" if model.adapter else ""
    if re.search(r"[@+]", model.model + (model.adapter or "")):
        raise InexpressibleError(f"a path with @ or +, {model.model}")
    return f"{model.model}{revision}{adapter}"
