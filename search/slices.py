"""mergekit's slices: layers of several models, as they are, one after the other (a "frankenmerge")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.errors import InputError

EMBEDDINGS = r"embed(?!_out)|wte|wpe"
"""Matches the parameters that stand before the layers."""


def stack_of(raw: dict[str, Any], names: dict[str, str], path: Path) -> list[dict[str, Any]]:
    """The `stack` of a recipe: one entry for each layer that the slices list.

    Args:
        raw: a mergekit configuration with `slices`.
        names: the name of each model in the recipe, by its reference in the slices.
        path: of the file, for errors.

    Raises:
        InputError: a slice is none of one source with a range of layers, or has parameters.
    """
    return [
        {"layer": layer, "source": names[model]}
        for model, start, stop in sources_of(raw, path)
        for layer in range(start, stop)
    ]


def sources_of(raw: dict[str, Any], path: Path) -> list[tuple[str, int, int]]:
    """(model, first layer, layer after the last) of each slice."""
    if raw["merge_method"] != "passthrough":
        raise InputError(f"{path}: slices must be merged by passthrough, but merge_method is {raw['merge_method']!r}")
    found = []
    for piece in raw["slices"] or []:
        sources = piece.get("sources") if isinstance(piece, dict) else None
        if not isinstance(sources, list) or len(sources) != 1 or set(sources[0]) != {"model", "layer_range"}:
            raise InputError(
                f"{path}: a slice must have one source with model and layer_range and nothing else, but got {piece!r}"
            )
        span = sources[0]["layer_range"]
        whole = isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)
        if not whole or not 0 <= span[0] < span[1]:
            raise InputError(f"{path}: layer_range must be [first, after the last], but got {span!r}")
        found.append((str(sources[0]["model"]), span[0], span[1]))
    if not found:
        raise InputError(f"{path}: slices must list at least one slice, but got {raw['slices']!r}")
    return found


def groups_of(experts: list[str], last: str | None) -> list[dict[str, Any]]:
    """Groups for `linear`: the base everywhere, but what follows the layers (final norm, head) from the last model.

    Args:
        experts: names of all experts.
        last: the expert whose layers come last; None: they are the base's.
    """
    nothing = {"parameters": {"weight": dict.fromkeys(experts, 0.0)}}
    if last is None:
        return [nothing]
    all_of_last = {"weight": {**dict.fromkeys(experts, 0.0), last: 1.0}}
    return [
        {"layers": "outside", "modules": EMBEDDINGS, **nothing},
        {"layers": "outside", "parameters": all_of_last},
        nothing,
    ]
