from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluators.packing import pack, unpack

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text().filter(lambda key: key not in {"()", "[]"})
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_packed_comes_back_with_its_tuples(value: Any) -> None:
    text = pack(value)
    assert "\n" not in text
    assert unpack(text) == value
    assert repr(unpack(text)) == repr(value)


@given(st.lists(st.floats(width=32)), st.sampled_from(["<f4", "<f8", "<i8", "|b1"]))
def test_arrays_keep_their_type_and_every_bit(values: list[float], dtype: str) -> None:
    with np.errstate(invalid="ignore"):
        array = np.array(values, dtype=np.float32).astype(dtype)
    back = unpack(pack((1, array)))[1]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@given(st.floats(width=32))
def test_numbers_of_numpy_become_pythons(value: float) -> None:
    for kind in (np.float32, np.float64):
        back = unpack(pack([kind(value)]))
        assert type(back[0]) is float
        np.testing.assert_equal(back[0], value)
    assert type(unpack(pack(np.int64(3)))) is int
    assert type(unpack(pack(np.str_("a")))) is str


@pytest.mark.parametrize("value", [{1, 2}, b"x", {1: 2}, {"()": 1}, [object()], np.array([object()]), 1j])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=f"a {type(value[0] if isinstance(value, list) else value).__name__} cannot be"):
        pack(value)
