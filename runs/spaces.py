"""The space of a configuration, as a user reads it: every dimension with its bounds. No weights are read."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.engine.checkpoint import HUB_ID, first_line, gguf_file, open_checkpoint
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.search.config import SearchConfig
from evomerge.search.merges import merges_of
from evomerge.spaces import LAYER_SPACES, Dimension, Space
from evomerge.spaces.basis import options_of


def space_of(config: SearchConfig) -> tuple[Space, int]:
    """The space that a search with the configuration has, and the number of the base's layers.

    Raises:
        InputError: as a search would, for the section `space`, the methods and the base's configuration.
    """
    merges = merges_of(config)
    num_layers = layers_of(config.models.base)
    return Space(config.space, num_layers, merges), num_layers


def layers_of(ref: ModelRef) -> int:
    """The number of a model's decoder layers, from its configuration alone; of a hub id nothing else is downloaded.

    Raises:
        InputError: there is no such model, or its configuration cannot be read or does not say.
    """
    path = Path(ref.model).expanduser()
    on_hub = not path.exists() and HUB_ID.fullmatch(ref.model)
    if on_hub or (path.is_dir() and gguf_file(path) is None):
        config = _read_config(ref.model if on_hub else path, ref)
    else:
        config = open_checkpoint(ref.model_copy(update={"adapter": None})).pretrained_config
    count = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(count, int):
        raise InputError(f"the configuration of {ref.model} must have num_hidden_layers, but has none")
    return count


def _read_config(source: str | Path, ref: ModelRef) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, revision=ref.revision, trust_remote_code=ref.trust_remote_code)
    except Exception as error:
        raise InputError(
            f"a model must be a folder or a hub id whose configuration transformers reads, but {ref.model!r}: "
            f"{first_line(error)}"
        ) from None


def described(config: SearchConfig) -> dict[str, Any]:
    """The space as plain data.

    Returns:
        {layers, options, num_layers, modules, methods: {method: {dimensions, fixed: {parameter: number}}},
        dimensions: [{name, low, high, gate, parameter, expert, modules, depth, methods}], conditions}.
    """
    space, num_layers = space_of(config)
    return {
        "layers": config.space.layers,
        "options": _options(config),
        "num_layers": num_layers,
        "modules": list(config.space.modules),
        "methods": {
            method: {"dimensions": len(space.dimensions(method)), "fixed": space.fixed(method)}
            for method in space.methods
        },
        "dimensions": [
            {
                "name": each.name,
                "low": each.low,
                "high": each.high,
                "gate": each.is_gate,
                "parameter": each.parameter,
                "expert": each.expert or None,
                "modules": each.modules or None,
                "depth": each.depth,
                "methods": methods,
            }
            for each, methods in _dimensions(space)
        ],
        "conditions": space.conditions(),
    }


def space_page(config: SearchConfig) -> Group:
    """The same for a terminal: a table with a section for each parameter and expert, and what else there is to know."""
    space, num_layers = space_of(config)
    several = len(space.methods) > 1
    table = Table(show_edge=False)
    table.add_column("dimension", overflow="fold")
    for column in ("lowest", "highest"):
        table.add_column(column, justify="right", no_wrap=True)
    if several:
        table.add_column("of", overflow="fold")
    for _, section in groupby(_dimensions(space), key=lambda each: (each[0].parameter, each[0].expert)):
        for each, methods in section:
            owners = "every method" if len(methods) == len(space.methods) else ", ".join(methods)
            cells = [each.name, f"{each.low:g}", f"{each.high:g}", *([owners] if several else [])]
            table.add_row(*(Text(cell) for cell in cells))
        table.add_section()
    head = [Text(line) for line in _head(config, space, num_layers)]
    return Group(*head, Text(), table, Text(), *(Text(sentence) for sentence in space.conditions()))


def _head(config: SearchConfig, space: Space, num_layers: int) -> list[str]:
    options = "".join(f", {name} {value}" for name, value in _options(config).items() if value is not None)
    lines = [f"space: {config.space.layers}{options}; {num_layers} layers; modules {', '.join(config.space.modules)}"]
    for method in space.methods:
        count = len(space.dimensions(method))
        fixed = ", ".join(f"{name} fixed at {number:g}" for name, number in space.fixed(method).items())
        lines.append(f"{method}: {count} dimension{'s' * (count != 1)}{f'; {fixed}' if fixed else ''}")
    if len(space.methods) > 1:
        lines.append(f"method: one of {', '.join(space.methods)}")
    return lines


def _options(config: SearchConfig) -> dict[str, Any]:
    defaults = options_of(LAYER_SPACES.get(config.space.layers))
    options = {name: config.space.settings.get(name, default) for name, default in defaults.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _dimensions(space: Space) -> list[tuple[Dimension, list[str]]]:
    """Each dimension once, with the methods that have it."""
    methods: dict[str, list[str]] = {}
    found: dict[str, Dimension] = {}
    for method in space.methods:
        for each in space.dimensions(method):
            methods.setdefault(each.name, []).append(method)
            found.setdefault(each.name, each)
    return [(each, methods[name]) for name, each in found.items()]
