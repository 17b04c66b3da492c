"""`evomerge status`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from evomerge.runs.verbs.options import (
    Json,
    RunFolder,
)
from evomerge.runs.verbs.output import out, print_json


def status(run: RunFolder, as_json: Json = False, watch: Annotated[bool, typer.Option("--watch")] = False) -> None:
    """Show where a run stands."""
    from evomerge.runs.run import open_run
    from evomerge.runs.status import status as told

    opened = open_run(run)
    if watch:
        _watch(opened)
    elif as_json:
        print_json(told(opened))
    else:
        from evomerge.runs.console import status_table

        out().print(status_table(told(opened)))


def _watch(run: Any) -> None:
    import time

    from rich.live import Live

    from evomerge.runs.console import status_table
    from evomerge.runs.status import status as told

    with Live(status_table(told(run)), console=out(), auto_refresh=False) as live:
        while run.is_held:
            time.sleep(1)
            live.update(status_table(told(run)), refresh=True)
