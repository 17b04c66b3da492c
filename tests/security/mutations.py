"""Malformed inputs, made from sound ones: each is a function of its number alone, so that any can be made again."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

Tree = Any

NUMBERS = (
    -1, 0, 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30, 10**400, -0.0,
    1e308, 0.5,
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\n", "a\nb", "\x1b[31m", "../x", "../../x", "/etc/passwd", "..\\x", "a" * 300, "a" * 5000, "ü",
    "\u202e",
    "\ufeff", "{{7*7}}", "!!python/object/apply:os.system [true]", "!function os.system", "none", "nan", "NaN",
    "1e999",
    "0x10", "~", "~nobody/x", "file:///etc/passwd", "http://127.0.0.1:9/x", "(a+)+$", "[", "(?P<a", "*",
    "a{99999999}",
    "base", "all", "outside", "merged", "ties", "bfloat16", "model.safetensors", "%s%s%s", "\ud800",
)  # fmt: skip
WORDS = ("__class__", "", "model", "weight", "layers", "parameters", "auto_map", "x" * 200, "a\nb", "<<", "\ud800")


def value(rng: random.Random) -> Tree:
    """Something that is likely not to belong where it is put."""
    return rng.choice(
        (
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice((None, True, False, [], {}, [[]], [{}], {"": None}, float("nan"), float("inf"))),
            lambda: [rng.choice(NUMBERS) for _ in range(rng.randrange(6))],
            lambda: nested(rng.choice((2, 50, 99, 100, 101, 150)), rng.random() < 0.5),
            lambda: {rng.choice(WORDS): rng.choice(NUMBERS + TEXTS)},
            lambda: [rng.choice(TEXTS)] * rng.choice((1, 2, 70, 1000)),
        )
    )()


def nested(depth: int, mappings: bool) -> Tree:
    tree: Tree = 0
    for _ in range(depth):
        tree = {"a": tree} if mappings else [tree]
    return tree


def places(tree: Tree) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree."""
    found: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        each = stack.pop()
        keys: list[Any] = (
            list(each) if isinstance(each, dict) else list(range(len(each))) if isinstance(each, list) else []
        )
        found += [(each, key) for key in keys]
        stack += [each[key] for key in keys]
    return found


def changed(tree: Tree, rng: random.Random) -> Tree:
    """A copy of a tree with one to three things replaced, removed, renamed, doubled or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(tree)
        if not found or rng.random() < 0.02:
            tree = value(rng)
            continue
        box, key = rng.choice(found)
        change = rng.randrange(7)
        if change <= 2:
            box[key] = _near(box[key], rng) if rng.random() < 0.5 else value(rng)
        elif change == 3:
            del box[key]
        elif change == 4 and isinstance(box, dict):
            box[rng.choice(WORDS)] = box.pop(key)
        elif change == 5 and isinstance(box, list):
            box.extend([copy.deepcopy(box[key])] * rng.choice((1, 2, 20)))
        else:
            other, place = rng.choice(found)
            box[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
    return tree


def _near(old: Tree, rng: random.Random) -> Tree:
    """A value of the same kind."""
    if isinstance(old, bool):
        return rng.choice((not old, 0, 1, "true"))
    if isinstance(old, int):
        return rng.choice(
            (old + 1, old - 1, -old, old * 2, old * 10**12, old + 0.5 if abs(old) < 2**64 else 0.5, *NUMBERS)
        )
    if isinstance(old, float):
        return rng.choice((-old, old * 1e300, float("nan"), float("inf"), str(old)))
    if isinstance(old, str):
        return rng.choice(
            (old + rng.choice(TEXTS), old[1:], rng.choice(TEXTS) + old, old.upper(), rng.choice(TEXTS), [old])
        )
    return value(rng)


def as_json(tree: Tree, rng: random.Random) -> bytes:
    """A tree as JSON; now and then with a key twice."""
    text = json.dumps(tree)
    if rng.random() < 0.05 and "{" in text:
        at = rng.choice([place for place, letter in enumerate(text) if letter == "{"])
        text = text[: at + 1] + '"a": 1, "a": 2, ' + text[at + 1 :]
    return spoiled(text.encode(), rng)


def as_yaml(tree: Tree, rng: random.Random) -> bytes:
    """A tree as YAML: in blocks, as JSON, or with something that only YAML has."""
    import yaml

    if rng.random() < 0.3:
        return as_json(tree, rng)
    try:
        text = yaml.dump(tree, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        text = json.dumps(tree)
    if rng.random() < 0.3:
        at = rng.choice([place for place, letter in enumerate(text) if letter == "\n"] or [0])
        text = text[:at] + rng.choice(YAML_ONLY) + text[at:]
    return spoiled(text.encode("utf-8", "surrogatepass"), rng)


def bomb(width: int, depth: int) -> str:
    """Aliases that expand to width ** depth values."""
    lines = ["b0: &b0 [x]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n" + "\n".join(lines) + "\n"


YAML_ONLY = (
    bomb(9, 10), bomb(2, 40), bomb(1, 300), "\na: &a [*a]\n", "\na: &a {b: *a}\n", "\n<<: 1\n",
    "\n<<: &x {<<: {a: 1}}\n",
    "\n? [a, b]\n: c\n", "\n? {a: b}\n: c\n", "\n!!python/object/apply:os.system ['true']\n",
    "\na: !!python/name:os.system\n",
    "\na: !!binary zz\n", "\na: !!set {b}\n", "\na: !function os.system\n", "\na: !function ../../x.f\n",
    "\na: !foo\n",
    "\na: 2001-13-45\n", "\na: 2001-01-01\n", "\na: !!int x\n", "\na: !!float 1e999\n", "\n---\na: 1\n", "\n...\n",
    "\n%YAML 9.9\n",
    "\n- a\n", "\n\tb: 1\n", "\na: *nothing\n", "\n1: 2\n", "\ntrue: 1\n", "\nname: x\nname: y\n", "[" * 3000,
    "- " * 3000,
    "{a: " * 3000, "\n" + "9" * 5000 + ": 1\n", "\na: " + "9" * 5000 + "\n", "\na: 190:20:30\n", "\na: |\n x\n  y\n",
)  # fmt: skip


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """One time in three: bytes cut, changed, put in, doubled, or in another encoding."""
    if rng.random() < 0.67 or not data:
        return data
    at = rng.randrange(len(data))
    some = rng.randbytes(rng.choice((1, 1, 4, 64)))
    length = rng.choice((1, 8, 200))
    return rng.choice(
        (
            lambda: data[:at],
            lambda: data[at:],
            lambda: data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
            lambda: data[:at] + some + data[at:],
            lambda: data[:at] + some + data[at + len(some) :],
            lambda: data[:at] + data[at : at + length] * rng.choice((2, 50)) + data[at:],
            lambda: data[:at] + data[at + length :],
            lambda: data + data,
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.decode("utf-8", "replace").encode("utf-16"),
            lambda: data[:at] + b"\0" + data[at:],
            lambda: data[:at] + rng.choice((b"[", b"{", b'"', b"-", b"'")) * 20_000 + data[at:],
            lambda: b"",
        )
    )()


def safetensors(header: bytes, length: int, payload: int, rng: random.Random) -> bytes:
    """A file of that header; the eight bytes that give its length are wrong one time in ten."""
    stated = rng.choice((0, 1, length + 1, length - 1, 2**20, 2**63, 2**64 - 1)) if rng.random() < 0.1 else length
    data = bytes(max(0, payload + rng.choice((0, 0, 0, 0, 1, -1, 4096))))
    return spoiled(struct.pack("<Q", max(0, stated)) + header + data, rng)
