"""`evomerge worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.errors import InputError
from evomerge.runs.verbs.options import Device, Json, MemoryLimit, Trust
from evomerge.runs.verbs.output import print_json, progress, tell


def worker(
    run: Annotated[Path | None, typer.Argument(help="The run's folder.")] = None,
    storage: Annotated[str | None, typer.Option(help="In place of a folder: the database's URL.")] = None,
    study: Annotated[str | None, typer.Option(help="With --storage: the study's name.")] = None,
    device: Device = None,
    memory_limit: MemoryLimit = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", help="OLD=NEW: models and tasks below the folder OLD lie below NEW on this host."),
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Join a running study, from any machine that reaches its database and the models."""
    from evomerge.runs.joining import join

    if (run is None) == (storage is None) or (storage is None) != (study is None):
        raise InputError("worker must be given either a run's folder, or --storage and --study")
    with progress() as bar:
        told = join(
            run,
            storage,
            study,
            bar,
            device=device,
            memory_limit=memory_limit,
            paths=path or (),
            trusted=trust or (),
        )
    if as_json:
        print_json(told)
    else:
        won = told["winner"]
        tell(f"{told['study']} has ended with trial {won['number']}: {won['objective']:.4f}")
        tell(f"this worker scored {told['documents']} documents")
