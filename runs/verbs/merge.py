"""`evomerge merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.licensing import AcceptLicence, StatedLicences
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
    licence: StatedLicences = None,
    accept_licence: AcceptLicence = False,
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Run the code that comes with this model; may be repeated."),
    ] = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Merge one recipe and write its checkpoint."""
    from evomerge.runs.export import write_recipe
    from evomerge.runs.licences import parse_stated
    from evomerge.search.recipes import read_merge
    from evomerge.search.trust import require_trusted_recipe

    stated = parse_stated(licence or [])
    read = read_merge(recipe, tell)
    require_trusted_recipe(read.recipe, trust or [], str(recipe))
    folder = write_recipe(
        read.recipe,
        to,
        device or "auto",
        memory_limit=memory_limit,
        chat_template=read.chat_template,
        licences=stated,
        accept_licence=accept_licence,
        tell=tell,
    )
    tell_folder(folder, as_json)
