"""Code and sizes that a model's configuration asks for, looked at before transformers reads it. No torch here.

A configuration can name Python files of its own (`auto_map`), compiled kernels on the hub (as an implementation of
attention or of experts), and so many layers that listing them fills the memory. The first is left to transformers,
which runs none unless `trust_remote_code` says so; the others are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.plain import read_json

KERNELS = ("attn_implementation", "experts_implementation")
COUNTS = ("layer", "expert", "block")
MOST = 100_000
"""The most layers, experts or blocks that a configuration may ask for."""


def check_config(config: Mapping[str, Any], ref: ModelRef, where: Path | str, tensors: int | None = None) -> None:
    """Check what a configuration would run and build.

    Args:
        config: as config.json says it.
        ref: the model; its `trust_remote_code` admits kernels.
        where: the file, for errors.
        tensors: how many the model's files hold, at least one a layer; None: unknown.

    Raises:
        InputError: it names a kernel, or more layers, experts or blocks than any model has, or than its files hold.
    """
    for path, value in _entries(config):
        key = path.rpartition(".")[2]
        if key.lstrip("_") in KERNELS and not ref.trust_remote_code:
            _check_kernel(value, path, where)
        if any(count in key for count in COUNTS) and type(value) is int and abs(value) > MOST:
            raise InputError(f"{where}: {path} must be at most {MOST}, but is {_shown(value)}")
        if key == "num_hidden_layers" and tensors is not None and type(value) is int and value > tensors:
            raise InputError(f"{where}: {path} must fit the files, which hold {tensors} tensors, but is {value}")


def code_notes(ref: ModelRef, folder: Path) -> tuple[str, ...]:
    """A note when a model's folder names Python files of its own and they are not run."""
    if ref.trust_remote_code:
        return ()
    named = [name for name in ("config.json", "tokenizer_config.json") if _auto_map(folder / name)]
    if not named:
        return ()
    return (
        f"{ref.name}: {' and '.join(named)} name{'s' if len(named) == 1 else ''} code of the model's own (auto_map), "
        f"which is not run; trust_remote_code would run it",
    )


def _auto_map(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content = read_json(path, "a configuration", finite=False)
    except InputError:  # whoever needs the file says what is wrong with it
        return False
    return isinstance(content, dict) and bool(content.get("auto_map"))


def _entries(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every key, at any depth."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            here = f"{path}.{key}" if path else key
            yield here, value
            yield from _entries(value, here)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value, path)


def _check_kernel(value: Any, path: str, where: Path | str) -> None:
    for name in value.values() if isinstance(value, Mapping) else [value]:
        if name is not None and (not isinstance(name, str) or "/" in name or ":" in name):
            raise InputError(
                f"{where}: {path} must be one of transformers' own, but is {name!r:.100}, which is code from "
                f"elsewhere; trust_remote_code admits it"
            )


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**18 else f"{number:.3e}" if abs(number) < 10**300 else "larger than 1e300"
