"""JSON and YAML within bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge import plain
from evomerge.errors import EvomergeError, InputError
from evomerge.plain import MAX_DEPTH, check_yaml, parse_json, parse_yaml, read_json, read_yaml
from tests.security.mutations import bomb

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(TREES)
def test_json_comes_back_as_it_was(tree: Any) -> None:
    assert parse_json(json.dumps(tree), "x") == tree
    assert parse_json(json.dumps(tree, ensure_ascii=False).encode(), "x") == tree


@given(TREES)
def test_yaml_is_what_pyyaml_makes_of_it(tree: Any) -> None:
    text = yaml.safe_dump(tree)
    assert parse_yaml(text, "x") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("- " * 100_000, "nested too deeply"),
        ("{a: " * 100_000, "nested too deeply"),
        (bomb(1, 300), "nested too deeply"),
        (bomb(9, 9), "more than 100000 values"),
        (bomb(2, 60), "more than 100000 values"),
        ("a: &a [*a]", "'a' holds itself"),
        ("a: !!python/object/apply:os.system ['true']", "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !!python/name:os.system", "the tag"),
        ("a: !function os.system", "the tag '!function'"),
        ("a: !!binary eA==", "the tag"),
        ("a: 1\na: 2", "the key 'a' twice"),
        ("x: {b: 1, b: 1}", "the key 'b' twice"),
        ("a: 2001-13-45", "month must be"),
        ("a: 2001-11-04", "put it in quotes"),
        ("1: 2", "is no text; put it in quotes"),
        ("a: .nan", "the number nan"),
        ("a: -.inf", "the number -inf"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 1\n---\na: 2", "expected a single document"),
        (b"\xff", "not UTF-8 at byte 0"),
        ("a: \0", "is not"),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "x.yaml must be a recipe")
    assert str(caught.value).startswith("x.yaml must be a recipe, but ")
    assert says in str(caught.value)


@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1])
def test_the_deepest_nesting_is_read(levels: int) -> None:
    for parse, text in ((parse_json, "[" * levels + "]" * levels), (parse_yaml, "[" * levels + "]" * levels)):
        if levels <= MAX_DEPTH:
            assert parse(text, "x") is not None
        else:
            with pytest.raises(InputError, match="too deeply"):
                parse(text, "x")


def test_aliases_and_merges_of_sound_files_are_kept() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "x") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' twice"),
        ("[NaN]", "has NaN"),
        ("[1e999]", "the number 1e999"),
        ("9" * 5000, "4300 digits"),
        ('["\\ud800"]', "half a character"),
        (b"\xff", "is not"),
        ("{", "Expecting property name"),
    ],
)
def test_json_that_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_json(text, "x.json must be an index")


def test_numbers_that_are_none_where_they_are_wanted() -> None:
    assert parse_json("[Infinity]", "x", finite=False) == [float("inf")]


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone\.json must be a configuration, but: No such file"):
        read_json(tmp_path / "gone.json", "a configuration")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="is no file"):
            read_yaml(place, "a recipe")
    monkeypatch.setattr(plain, "MAX_YAML_BYTES", 10)
    (tmp_path / "long.yaml").write_text("a: 123456789")
    with pytest.raises(InputError, match="more than 10 bytes"):
        read_yaml(tmp_path / "long.yaml", "a recipe")


def test_tags_that_are_allowed_are_listed() -> None:
    found = check_yaml("a: !function x.f\nb: [!function y.g]", "x", frozenset(("!function",)))
    assert found == [("!function", "x.f"), ("!function", "y.g")]


@given(st.text(max_size=5000))
def test_errors_are_one_printable_line(text: str) -> None:
    shown = str(EvomergeError(text))
    assert shown.isprintable()
    assert len(shown) < 2_100
    assert shown == text or not text.isprintable() or len(text) > 2_000
