"""Numbers by layer and module in mergekit's words: one value, a gradient over the layers, or values by filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evomerge.search.covering import beginnings
from evomerge.search.settings import resolve


class InexpressibleError(Exception):
    """mergekit has no words for this; the text says for what."""


def setting_of(layers: Sequence[Mapping[str, float]], outside: Mapping[str, float], names: Sequence[str]) -> Any:
    """A setting that gives every tensor of a slice its number.

    Args:
        layers: the numbers of each layer of the slice, by the paths inside it.
        outside: the numbers of what lies in no layer, by whole names.
        names: what the names of each layer begin with, such as "model.layers.3.".

    Raises:
        InexpressibleError: the layers have different parameters, or no filters tell the tensors apart.
    """
    if any(layer.keys() != layers[0].keys() for layer in layers):
        raise InexpressibleError("layers of different kinds with numbers of their own")
    series = {path: tuple(layer[path] for layer in layers) for path in layers[0]}
    if len({*outside.values(), *(value for values in series.values() for value in values)}) == 1:
        return next(iter(layers[0].values()))
    classes: dict[tuple[float, ...], list[str]] = {}
    for path, values in series.items():
        classes.setdefault(values, []).append(path)
    *small, rest = sorted(classes, key=lambda values: len(classes[values]))
    setting = [*_around(outside, rest[0], names, series)]
    for values in small:
        paths = classes[values]
        others = {*series} - {*paths}
        for head in beginnings(paths, others):
            setting.append({"filter": _filter(head, paths, others, names, outside), "value": _gradient(values)})
    told = [*setting, {"value": _gradient(rest)}] if setting else _gradient(rest)
    _check(told, layers, outside, names)
    return told


def _gradient(values: Sequence[float]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else list(values)


def _around(
    outside: Mapping[str, float], rest: float, names: Sequence[str], series: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Filters for what lies in no layer, where it has another number than the first layer's rest."""
    told = []
    for value in dict.fromkeys(outside.values()):
        if value != rest:
            members = [name for name, own in outside.items() if own == value]
            others = [name for name in outside if name not in members]
            inside = [f"{name}{path}" for name in names for path in series]
            for head in beginnings(members, [*others, *inside]):
                told.append({"filter": head, "value": value})
    return told


def _filter(
    head: str, paths: Collection[str], others: Collection[str], names: Sequence[str], outside: Collection[str]
) -> str:
    """Text that names with this beginning hold, and no others: mergekit looks for it anywhere in a name."""
    whole = [f"{name}{path}" for name in names for path in others] + [*outside]
    for text in (head, f".{head}", f".{head}.", f"{head}."):
        if not any(text in name for name in whole) and any(text in f"{names[0]}{path}" for path in paths):
            return text
    raise InexpressibleError(f"numbers for {head}, since other names hold the same letters")


def _check(
    told: Any, layers: Sequence[Mapping[str, float]], outside: Mapping[str, float], names: Sequence[str]
) -> None:
    """Read the setting back, as mergekit would."""
    last = len(layers) - 1
    for place, (layer, name) in enumerate(zip(layers, names, strict=True)):
        t = place / last if last else 1.0
        if any(resolve(told, f"{name}{path}", t, float) != value for path, value in layer.items()):
            raise InexpressibleError("numbers by module, since names overlap")
    if any(resolve(told, name, 0.0, float) != value for name, value in outside.items()):
        raise InexpressibleError("numbers outside of the layers, since names overlap")
