"""Plain data from files and databases: JSON and YAML, read within bounds. Every room may import this module.

What is read may come from anybody. Nothing in it makes Python objects other than numbers, texts, lists and mappings;
nesting and the size that aliases expand to are bounded before anything is built, since the parsers themselves overflow
the stack of the process or fill its memory; whatever is wrong is one InputError.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import InputError

MAX_BYTES = 100_000_000
"""The largest JSON that is read; as large as a header of safetensors may be."""

MAX_YAML_BYTES = 10_000_000
"""The largest YAML that is read."""

MAX_DEPTH = 100
"""The deepest nesting that is read."""

MAX_NODES = 100_000
"""The most values of a YAML file, those of aliases counted wherever they stand."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 60  # characters of a value that a message shows


def read_json(path: Path, what: str, *, finite: bool = True) -> Any:
    """What a UTF-8 file of JSON holds.

    Args:
        path: of the file.
        what: must be true of the file, for errors: "a model's configuration".
        finite: whether NaN and Infinity, which are no JSON, are refused.

    Raises:
        InputError: the file cannot be read, is larger than `MAX_BYTES`, or holds anything but JSON.
    """
    return parse_json(_bytes(path, what, MAX_BYTES), f"{path} must be {what}", finite=finite)


def parse_json(text: str | bytes, rule: str, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    Args:
        text: as text, or in UTF-8.
        rule: the first half of an error's sentence, such as "x.json must be a model's configuration".
        finite: as `read_json`.

    Raises:
        InputError: it is no JSON, nested too deeply, has a key twice in one mapping, a number that no float and no
            integer of Python's can be read from, or half of a surrogate pair.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(
            decoded, object_pairs_hook=_mapping, parse_constant=_not_finite if finite else None, parse_float=_float
        )
        _check_json(value, decoded)
    except RecursionError:
        raise InputError(f"{rule}, but is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{rule}, but {_said(error)}") from None
    return value


def read_yaml(path: Path, what: str) -> Any:
    """What a UTF-8 file of YAML (or JSON) holds.

    Args:
        path: of the file.
        what: must be true of the file, for errors: "a recipe".

    Raises:
        InputError: the file cannot be read, is larger than `MAX_YAML_BYTES`, or as `parse_yaml`.
    """
    return parse_yaml(_bytes(path, what, MAX_YAML_BYTES), f"{path} must be {what}")


def parse_yaml(text: str | bytes, rule: str) -> Any:
    """The value of a YAML text: numbers, texts, booleans, null, lists, and mappings from texts.

    Args:
        text: as text, or in UTF-8.
        rule: as in `parse_json`.

    Raises:
        InputError: it is no YAML, is nested too deeply, grows too large by its aliases, has a tag, a date, a number
            that is not finite, a key twice in one mapping, or a key that is no text.
    """
    decoded = decode(text, rule)
    check_yaml(decoded, rule, unique=True)
    try:
        value = yaml.load(decoded, Loader=_LOADER)
    except Exception as error:  # PyYAML's constructors raise whatever their conversions do
        raise InputError(f"{rule}, but {_said(error)}") from None
    _check_plain(value, rule)
    return value


def decode(text: str | bytes, rule: str) -> str:
    """UTF-8, with or without a byte order mark, as text. Raises InputError, with `rule` in front, when it is none."""
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{rule}, but is not UTF-8 at byte {error.start}") from None


def check_yaml(
    text: str, rule: str, allowed: frozenset[str] = frozenset(), *, unique: bool = False
) -> list[tuple[str, str]]:
    """Check a YAML text, and what building it would cost, without building anything.

    Args:
        text: in YAML.
        rule: as in `parse_json`.
        allowed: tags beside YAML's own plain ones.
        unique: whether a key that stands twice in one mapping is an error.

    Returns:
        (tag, value) of every scalar that has one of the allowed tags.

    Raises:
        InputError: it is no YAML, nested too deeply, too large with its aliases, or has another tag.
    """
    counter = _Counter(rule, unique)
    tagged = []
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            counter.count(event)
            tag = getattr(event, "tag", None)
            if tag in allowed and isinstance(event, yaml.ScalarEvent):
                tagged.append((tag, event.value))
            elif tag is not None and tag != "!" and tag not in _PLAIN_TAGS:
                raise InputError(f"{rule}, but has the tag {tag!r:.{_SHOWN}}")
    except InputError:
        raise
    except Exception as error:  # a YAMLError, or what the parser makes of bytes it did not expect
        raise InputError(f"{rule}, but {_said(error)}") from None
    return tagged


class _Counter:
    """The nesting of a stream of YAML events, and how many values it stands for, aliases written out."""

    def __init__(self, rule: str, unique: bool) -> None:
        self._rule = rule
        self._unique = unique
        self._total = 0
        self._open: list[_Level] = []
        self._anchors: dict[str, tuple[int, int]] = {}  # values behind each, and how deep they go

    def count(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            if any(level.anchor == event.anchor for level in self._open):
                raise InputError(f"{self._rule}, but {event.anchor!r:.{_SHOWN}} holds itself")
            size, depth = self._anchors.get(str(event.anchor), (1, 0))
            self._add(size, None, depth)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                self._anchors[event.anchor] = (1, 0)
            self._add(1, event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._add(1, None, 1)
            self._open.append(_Level(event.anchor, self._total, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.CollectionEndEvent):
            level = self._open.pop()
            if level.anchor:
                self._anchors[level.anchor] = (self._total - level.start + 1, level.depth)

    def _add(self, size: int, text: str | None, depth: int = 0) -> None:
        self._total += size
        if self._total > MAX_NODES:
            raise InputError(f"{self._rule}, but holds more than {MAX_NODES} values")
        if len(self._open) + depth > MAX_DEPTH:
            raise InputError(f"{self._rule}, but is nested too deeply")
        for above, level in enumerate(reversed(self._open), 1):
            level.depth = max(level.depth, above + depth)
        repeated = self._open[-1].enter(text) if self._open else None
        if repeated is not None and self._unique:
            raise InputError(f"{self._rule}, but has the key {repeated!r:.{_SHOWN}} twice")


class _Level:
    """A collection that is open: how many values stood before it, how deep it goes, and a mapping's keys so far."""

    def __init__(self, anchor: str | None, start: int, mapping: bool) -> None:
        self.anchor = anchor
        self.start = start
        self.depth = 1
        self._keys: set[str] | None = set() if mapping else None
        self._key_is_next = True

    def enter(self, text: str | None) -> str | None:
        """Take the next value; the key, when it is one that stood before."""
        if self._keys is None:
            return None
        is_key, self._key_is_next = self._key_is_next, not self._key_is_next
        if not is_key or text is None or text == "<<":
            return None
        if text in self._keys:
            return text
        self._keys.add(text)
        return None


def _bytes(path: Path, what: str, most: int) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} must be {what}, but is no file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} must be {what}, but: {error.strerror}") from None
    if len(data) > most:
        raise InputError(f"{path} must be {what}, but has more than {most} bytes")
    return data


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"has the key {twice!r:.{_SHOWN}} twice")
    return found


def _check_json(value: Any, text: str) -> None:
    """Raise RecursionError or ValueError for what a value, read from `text`, may be in JSON but not here."""
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"has half a character, {error.object[error.start]!r}") from None
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RecursionError
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"has the number {text:.{_SHOWN}}")
    return number


def _not_finite(text: str) -> float:
    raise ValueError(f"has {text}")


def _check_plain(value: Any, rule: str) -> None:
    """Raise InputError unless a value is made of what JSON has; its size has been checked before."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{rule}, but has the key {key!r:.{_SHOWN}}, which is no text; put it in quotes")
            _check_plain(item, rule)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, rule)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{rule}, but has the number {value}")
    elif not isinstance(value, str | int | float | None):
        raise InputError(f"{rule}, but has the {type(value).__name__} {str(value)!r:.{_SHOWN}}; put it in quotes")


def _said(error: Exception) -> str:
    """What a parser says, in one line: "is not: ..." for those that name a place in the text."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.startswith("has ") else f"is not: {text[:200]}"
