"""`evomerge doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.options import Json, Settings
from evomerge.runs.verbs.output import out, print_json


def doctor(
    config: Annotated[Path, typer.Argument(help="The search's YAML file.")],
    offline: Annotated[bool, typer.Option("--offline", help="Look at nothing that is not on this machine.")] = False,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Read no weights: nothing is said of how experts get along.")
    ] = False,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the run would be; outputs/NAME.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Check everything that can be known before anything heavy is loaded."""
    from evomerge.runs.doctor.examination import examine
    from evomerge.runs.doctor.page import examination_page
    from evomerge.search.config import load_config

    found = examine(load_config(config, settings), offline=offline, weights=not no_weights, folder=folder)
    if as_json:
        print_json(found.as_data())
    else:
        out().print(examination_page(found))
    if found.errors:
        raise typer.Exit(2)
