"""`evomerge space`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.options import (
    Json,
    Settings,
)
from evomerge.runs.verbs.output import out, print_json


def space(
    config: Annotated[Path, typer.Argument(help="The search's YAML file.")],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """List what a search may vary: every dimension with its bounds, and what is fixed."""
    from evomerge.runs.spaces import described, space_page
    from evomerge.search.config import load_config

    resolved = load_config(config, settings)
    if as_json:
        print_json(described(resolved))
    else:
        out().print(space_page(resolved))
