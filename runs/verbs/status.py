"""`evomerge status`."""

from __future__ import annotations

from typing import Annotated

import typer

from evomerge.errors import InputError
from evomerge.runs.verbs.options import Json, RunFolder
from evomerge.runs.verbs.output import out, print_json

Watched = Annotated[bool, typer.Option("--watch", help="Show it until it ends; Ctrl-C leaves it running.")]


def status(run: RunFolder, as_json: Json = False, watched: Watched = False) -> None:
    """Show where a run stands."""
    from evomerge.runs.run import open_run
    from evomerge.runs.status import status as told

    if watched and as_json:
        raise InputError("status must be given --watch or --json, but got both: --json is one object of one moment")
    opened = open_run(run)
    if watched:
        from evomerge.runs.watch import watch

        watch(opened, out())
    elif as_json:
        print_json(told(opened))
    else:
        from evomerge.runs.console import status_table

        out().print(status_table(told(opened)))
