"""mergekit's slices: where each output layer comes from, and which numbers it and what stands around the layers get."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.engine.checkpoint import Checkpoint
from evomerge.engine.layers import MODULES, Place
from evomerge.errors import InputError
from evomerge.search.covering import beginnings, pattern_of

EMBEDDINGS = r"embed(?!_out)|wte|wpe"
"""Matches the parameters that stand before the layers."""

Numbers = Mapping[str, Any]
"""The `parameters` of a recipe's group."""


class Source(NamedTuple):
    """One model of a slice: its reference, its layers [start, stop), and its own settings."""

    model: str
    start: int
    stop: int
    settings: Mapping[str, Any]


class Slice(NamedTuple):
    """Layers that are merged from the same models, and the settings that hold for all of them."""

    sources: tuple[Source, ...]
    settings: Mapping[str, Any]


class Shape(NamedTuple):
    """Where a model's parameters lie, by its files.

    Attributes:
        prefix: what the names of all layers begin with, such as "model.layers.".
        layers: the paths inside each layer.
        outside: the names of all other parameters.
    """

    prefix: str
    layers: tuple[tuple[str, ...], ...]
    outside: tuple[str, ...]


class Layer(NamedTuple):
    """One output layer.

    Attributes:
        piece: the slice it belongs to.
        layer: its number in the sources.
        t: how far through its slice it is, in [0, 1]; 1 in a slice of one layer.
    """

    piece: Slice
    layer: int
    t: float


Numbering = Callable[[Slice, str, float], Numbers]
"""The numbers of the tensor of that name, in a slice, so far through it."""


def shape_of(checkpoint: Checkpoint) -> Shape:
    """Where a checkpoint's parameters lie. Raises InputError when its layers cannot be told by their names."""
    depth = depth_of(checkpoint)
    shape = shape_of_names(checkpoint.names(), depth)
    if shape is None:
        raise InputError(f"{checkpoint.folder} must name its {depth} layers by number, but does not")
    return shape


def depth_of(checkpoint: Checkpoint) -> int:
    """How many decoder layers the configuration gives the model; 0 where it does not say."""
    return getattr(checkpoint.pretrained_config.get_text_config(decoder=True), "num_hidden_layers", None) or 0


def shape_of_names(names: Sequence[str], depth: int) -> Shape | None:
    """Where parameters of these names lie; None where not exactly one series of `depth` numbers is among them."""
    found: dict[str, dict[int, list[str]]] = {}
    for name in names:
        if match := re.match(r"(.*?\.|)(\d+)\.(.+)$", name):
            found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(match[3])
    fitting = [prefix for prefix, layers in found.items() if depth and sorted(layers) == list(range(depth))]
    if len(fitting) != 1:
        return None
    prefix = fitting[0]
    layers = tuple(tuple(found[prefix][layer]) for layer in range(depth))
    outside = [name for name in names if not re.match(rf"{re.escape(prefix)}\d+\.", name)]
    return Shape(prefix, layers, tuple(dict.fromkeys([*outside, "lm_head.weight"])))


def output_layers(pieces: Sequence[Slice], depth: int) -> list[Layer]:
    """The layers that slices list, first to last.

    Raises:
        InputError: a slice takes other layers of one model than of another, or layers that there are not.
    """
    found = []
    for piece in pieces:
        spans = {(source.start, source.stop) for source in piece.sources}
        if len(spans) != 1:
            raise InputError(
                "the models of a slice must give the same layer_range here, but got "
                f"{', '.join(str(list(span)) for span in sorted(spans))}"
            )
        start, stop = spans.pop()
        if stop > depth:
            raise InputError(
                f"layer_range must lie in [0, {depth}], since the model has {depth} layers, but got {[start, stop]}"
            )
        last = stop - start - 1
        found += [Layer(piece, start + index, index / last if last else 1.0) for index in range(stop - start)]
    return found


def groups_of(layers: Sequence[Layer], shape: Shape, numbering: Numbering) -> list[dict[str, Any]] | None:
    """The groups of a recipe in which each parameter has the numbers that mergekit gives it.

    What stands before the layers follows the first slice, what stands behind them the last one, both at t = 0.

    Args:
        layers: the output's.
        shape: of the model.
        numbering: gives the numbers.

    Returns:
        The groups; None where a layer that stands twice in the output has different numbers each time.
    """
    by_layer: dict[int, dict[str, Numbers]] = {}
    for place in layers:
        names = {path: f"{shape.prefix}{place.layer}.{path}" for path in shape.layers[place.layer]}
        numbers = {path: numbering(place.piece, name, place.t) for path, name in names.items()}
        if by_layer.setdefault(place.layer, numbers) != numbers:
            return None
    groups = outside_groups(layers, shape, numbering)
    inside = _by_module(by_layer)
    everything = json.dumps(inside[0][2], sort_keys=True) if len(inside) == 1 else None
    if len(groups) == 1 and everything == json.dumps(groups[0]["parameters"], sort_keys=True):
        return [{"parameters": groups[0]["parameters"]}]
    return [*groups, *({"layers": span, **modules, "parameters": numbers} for span, modules, numbers in inside)]


def outside_groups(layers: Sequence[Layer], shape: Shape, numbering: Numbering) -> list[dict[str, Any]]:
    """The groups of what lies in no layer."""
    first, last = layers[0].piece, layers[-1].piece
    numbers = {name: numbering(first if re.search(EMBEDDINGS, name) else last, name, 0.0) for name in shape.outside}
    return [{"layers": "outside", **modules, "parameters": found} for modules, found in _partition(numbers, None)]


def stack_of(layers: Sequence[Layer], depth: int) -> list[dict[str, Any]] | None:
    """The recipe's stack of merged layers; None where each stands once and in order."""
    order = [layer.layer for layer in layers]
    return None if order == list(range(depth)) else [{"layer": layer} for layer in order]


def _by_module(by_layer: Mapping[int, Mapping[str, Numbers]]) -> list[tuple[list[int] | str, dict[str, str], Numbers]]:
    """(layers, modules, numbers) with neighbouring layers that have the same numbers together.

    Layers that are not in the output take those of the layer before them, which none can see.
    """
    found: list[tuple[list[int], list[tuple[dict[str, str], Numbers]]]] = []
    for layer in sorted(by_layer):
        parts = _partition(by_layer[layer], layer)
        if found and found[-1][1] == parts:
            found[-1][0][1] = layer + 1
        else:
            start = found[-1][0][1] if found else 0
            found.append(([start, layer + 1], parts))
    spans: list[tuple[list[int] | str, dict[str, str], Numbers]] = [
        (span, modules, numbers) for span, parts in found for modules, numbers in parts
    ]
    return [*spans[:-1], ("all", {}, spans[-1][2])]


def _partition(numbers: Mapping[str, Numbers], layer: int | None) -> list[tuple[dict[str, str], Numbers]]:
    """Names by their numbers, the largest part last and without a pattern: each group takes what those before left."""
    parts: dict[str, tuple[list[str], Numbers]] = {}
    for name, found in numbers.items():
        parts.setdefault(json.dumps(found, sort_keys=True), ([], found))[0].append(name)
    ordered = sorted(parts.values(), key=lambda part: len(part[0]))
    told, left = [], set(numbers)
    for names, found in ordered[:-1]:
        told.append(({"modules": _modules(names, left - set(names), layer)}, found))
        left -= set(names)
    return [*told, ({}, ordered[-1][1])]


def _modules(names: Sequence[str], others: Iterable[str], layer: int | None) -> str:
    """`modules` of a group that takes these names and none of the others."""
    others = set(others)
    for module in MODULES if layer is not None else ():
        fits = {name for name in (*names, *others) if Place(layer, name).module == module}
        if fits == set(names):
            return module
    return pattern_of(beginnings(names, others), inside=layer is not None)
