"""mergekit's parameter settings: one value, a gradient over layers, or values for tensors whose names match filters.

What they mean was found out by running mergekit 0.1.5; `tests/runs/test_mergekit_reading.py` compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from evomerge.errors import InputError

Scalar = bool | int | float | str
Read = Callable[[Scalar], Any]
"""From a scalar of the file to the value of a parameter; raises InputError."""


ON_A_LAYER = 1e-9
"""A place in a gradient that is so near to one of its values is meant to be that value, and off by rounding only."""


def check_setting(setting: Any, where: str) -> None:
    """Raise InputError unless `setting` has a form that `resolve` knows."""
    if isinstance(setting, Mapping):
        _check_condition(setting, where)
    elif isinstance(setting, list):
        if not setting:
            raise InputError(f"{where} must have a value, but got []")
        conditional = [isinstance(entry, Mapping) for entry in setting]
        if any(conditional) and not all(conditional):
            raise InputError(f"{where} must be a list of values or of value and filter, but mixes both: {setting!r}")
        for entry in setting:
            check_setting(entry, where) if isinstance(entry, Mapping) else _check_scalar(entry, where)
    else:
        _check_scalar(setting, where)


def is_plain(setting: Any) -> bool:
    """Whether the setting is the same for all tensors of all layers."""
    return not isinstance(setting, list | Mapping)


def resolve(setting: Any, name: str, t: float, read: Read) -> Any:
    """The value for one tensor; None where no filter fits it.

    Args:
        setting: checked by `check_setting`.
        name: of the tensor, with the number of its layer.
        t: how far through its slice the tensor's layer is, in [0, 1].
        read: gives each scalar its meaning. Numbers of a gradient are interpolated, anything else is stepped through.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return read(setting)
    if isinstance(setting[0], Mapping):
        fitting = (entry for entry in setting if entry.get("filter") in (None, "*") or entry["filter"] in name)
        first = next(fitting, None)
        return None if first is None else resolve(first["value"], name, t, read)
    values = [read(entry) for entry in setting]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values[int(t * (len(values) - 1))]
    place = t * (len(values) - 1)
    if abs(place - round(place)) < ON_A_LAYER:
        return values[round(place)]
    below = int(place)
    above = min(len(values) - 1, below + 1)
    share = place - below
    return (1 - share) * values[below] + share * values[above]


def first_of(settings: Iterable[Mapping[str, Any]], parameter: str, name: str, t: float, read: Read) -> Any:
    """The value of the first scope that gives the tensor one, the narrowest scope first; None: none does."""
    for scope in settings:
        if parameter in scope and (value := resolve(scope[parameter], name, t, read)) is not None:
            return value
    return None


def _check_condition(entry: Mapping[str, Any], where: str) -> None:
    unknown = sorted(set(entry) - {"value", "filter"}, key=str)
    if unknown or "value" not in entry or not isinstance(entry.get("filter"), str | None):
        raise InputError(f"{where} must have a value and at most a filter (text), but got {dict(entry)!r}")
    if isinstance(entry["value"], Mapping) or (
        isinstance(entry["value"], list) and any(isinstance(each, Mapping) for each in entry["value"])
    ):
        raise InputError(f"{where} must have no filters inside of filters, but got {dict(entry)!r}")
    check_setting(entry["value"], where)


def _check_scalar(value: Any, where: str) -> None:
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, bool | int | float | str) or not finite:
        raise InputError(f"{where} must be a finite number, true, false or text, but got {value!r}")
