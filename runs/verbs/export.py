"""`evomerge export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.errors import InputError
from evomerge.runs.verbs.licensing import AcceptLicence, StatedLicences
from evomerge.runs.verbs.options import (
    Json,
    MemoryLimit,
    RunFolder,
)
from evomerge.runs.verbs.output import print_json, tell, tell_folder


def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A new folder.")],
    trial: Annotated[str, typer.Option(help="best, or a trial's number.")] = "best",
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload to this repository of the hub, too; a new one is private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository of the hub public.")] = False,
    licence: StatedLicences = None,
    accept_licence: AcceptLicence = False,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Write the checkpoint of a candidate, with its card and provenance."""
    from evomerge.engine.export import check_new_folder
    from evomerge.runs.export import export_run
    from evomerge.runs.hub import check_push, push, tell_local_paths
    from evomerge.runs.licences import parse_stated
    from evomerge.runs.run import open_run

    if trial != "best" and not trial.isdecimal():
        raise InputError(f"--trial must be best or a number, but got {trial!r}")
    if public and push_to_hub is None:
        raise InputError("--public must come with --push-to-hub, but there is none")
    opened = open_run(run)
    stated = parse_stated(licence or [])
    number = None if trial == "best" else int(trial)
    if push_to_hub is not None:
        check_new_folder(to)
        check_push(push_to_hub)
        tell_local_paths(opened.recipe(number), tell)
    folder = export_run(
        opened,
        to,
        number,
        licences=stated,
        accept_licence=accept_licence,
        memory_limit=memory_limit,
        repository=push_to_hub or "",
        tell=tell,
    )
    url = None if push_to_hub is None else push(folder, push_to_hub, private=not public, tell=tell)
    if as_json:
        print_json({"folder": str(folder), **({"url": url} if url else {})})
        return
    tell_folder(folder, as_json)
    if url:
        print(f"uploaded to {url}")
