"""`evomerge export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.errors import InputError
from evomerge.runs.verbs.options import (
    Json,
    MemoryLimit,
    RunFolder,
)
from evomerge.runs.verbs.output import tell, tell_folder


def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A new folder.")],
    trial: Annotated[str, typer.Option(help="best, or a trial's number.")] = "best",
    push_to_hub: Annotated[str | None, typer.Option(help="Upload to this repository of the hub, too.")] = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Write the checkpoint of a candidate, with its card and provenance."""
    from evomerge.runs.export import export_run
    from evomerge.runs.run import open_run

    if trial != "best" and not trial.isdecimal():
        raise InputError(f"--trial must be best or a number, but got {trial!r}")
    folder = export_run(
        open_run(run), to, None if trial == "best" else int(trial), memory_limit=memory_limit, tell=tell
    )
    if push_to_hub is not None:
        from evomerge.runs.hub import push

        push(folder, push_to_hub)
    tell_folder(folder, as_json)
