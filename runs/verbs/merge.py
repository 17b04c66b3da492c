"""`evomerge merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.options import (
    Device,
    Json,
    MemoryLimit,
)
from evomerge.runs.verbs.output import tell, tell_folder


def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML or JSON, or a mergekit YAML.")],
    to: Annotated[Path, typer.Option(help="A new folder.")],
    device: Device = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Merge one recipe and write its checkpoint."""
    from evomerge.runs.export import write_recipe
    from evomerge.search.recipes import read_recipe

    folder = write_recipe(read_recipe(recipe), to, device or "auto", memory_limit=memory_limit, tell=tell)
    tell_folder(folder, as_json)
