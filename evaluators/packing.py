"""Results of documents as one line of JSON, from which they come back as they were: tuples, arrays, NaN and all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

_TUPLE = "()"
_ARRAY = "[]"


def pack(value: Any) -> str:
    """`value` as JSON.

    None, booleans, numbers (NaN and infinities too), strings, lists, tuples, tables with text keys, and arrays of
    numbers or text. NumPy's scalars become Python's.

    Raises:
        TypeError: anything else is in it.
    """
    return json.dumps(_plain(value), separators=(",", ":"))


def unpack(text: str) -> Any:
    """What `pack` was given."""
    return json.loads(text, object_hook=_restored)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        if isinstance(value, np.generic):
            return value.item()
        return {_ARRAY: value.tolist(), "dtype": value.dtype.str}
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(item) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and not {_TUPLE, _ARRAY} & set(value):
        return {key: _plain(item) for key, item in value.items()}
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _restored(table: dict[str, Any]) -> Any:
    if _TUPLE in table:
        return tuple(table[_TUPLE])
    if _ARRAY in table:
        return np.array(table[_ARRAY], dtype=table["dtype"])
    return table
