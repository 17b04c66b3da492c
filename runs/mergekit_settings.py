"""Numbers by layer and module in mergekit's words: one value, a gradient over the layers, or values by filters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evomerge.search.covering import beginnings, begins
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
    for claimed in (False, True):
        told = _conditions(series, outside, names, claimed)
        if told is not None and _reads_back(told, layers, outside, names):
            return told
    raise InexpressibleError("numbers by module, since names of tensors overlap")


def _conditions(
    series: Mapping[str, tuple[float, ...]], outside: Mapping[str, float], names: Sequence[str], claimed: bool
) -> Any:
    """A gradient, or values by filters, the first that fits counting; None where no filters tell the tensors apart.

    Args:
        series: each path's numbers through the layers.
        outside: as in `setting_of`.
        names: likewise.
        claimed: whether everything gets a filter, so that an early one can keep a name from a later one; else only
            what differs from the last value.
    """
    classes: dict[tuple[float, ...], list[str]] = {}
    for path, values in series.items():
        classes.setdefault(values, []).append(path)
    heads = {values: beginnings(paths, series.keys() - paths) for values, paths in classes.items()}
    *small, rest = sorted(classes, key=lambda values: (len(heads[values]), len(classes[values])))
    found = _around({name: v for name, v in outside.items() if claimed or v != rest[0]}, outside, names, series)
    listed = [(head, values) for values in (classes if claimed else small) for head in heads[values]]
    left = dict(series)
    while listed:
        around = () if claimed else outside
        texts = ((_filter(head, _others(left, values, names, around)), head, values) for head, values in listed)
        first = next((each for each in texts if each[0]), None)
        if first is None:
            return None
        text, head, values = first
        found.append({"filter": text, "value": _gradient(values)})
        listed.remove((head, values))
        left = {path: own for path, own in left.items() if not begins(path, head)}
    return [*found, {"value": _gradient(rest)}] if found else _gradient(rest)


def _gradient(values: Sequence[float]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else list(values)


def _around(
    claimed: Mapping[str, float], outside: Collection[str], names: Sequence[str], series: Collection[str]
) -> list[dict[str, Any]]:
    """Filters for what lies in no layer."""
    told = []
    inside = [f"{name}{path}" for name in names for path in series]
    for value in dict.fromkeys(claimed.values()):
        members = [name for name, own in claimed.items() if own == value]
        others = [name for name in outside if name not in members]
        told += [{"filter": head, "value": value} for head in beginnings(members, [*others, *inside])]
    return told


def _others(
    left: Mapping[str, tuple[float, ...]], values: tuple[float, ...], names: Sequence[str], outside: Collection[str]
) -> list[str]:
    """The names that a filter for these values must not hit."""
    return [*outside, *(f"{name}{path}" for name in names for path, own in left.items() if own != values)]


def _filter(head: str, others: Collection[str]) -> str | None:
    """Text for names that begin so, which no other holds anywhere: mergekit does not ask where it stands."""
    texts = (head, f".{head}", f".{head}.")
    return next((text for text in texts if not any(text in name for name in others)), None)


def _reads_back(
    told: Any, layers: Sequence[Mapping[str, float]], outside: Mapping[str, float], names: Sequence[str]
) -> bool:
    """Whether mergekit would read the very same numbers."""
    last = len(layers) - 1
    return all(
        resolve(told, f"{name}{path}", place / last if last else 1.0, float) == value
        for place, (layer, name) in enumerate(zip(layers, names, strict=True))
        for path, value in layer.items()
    ) and all(resolve(told, name, 0.0, float) == value for name, value in outside.items())
