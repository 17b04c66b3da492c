"""`evomerge resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.errors import InputError
from evomerge.runs.verbs.options import (
    Json,
    MemoryLimit,
    TimeoutOption,
    Trials,
    Trust,
    Workers,
)
from evomerge.runs.verbs.output import progress, tell_result


def resume(
    run: Annotated[Path | None, typer.Argument(help="The run's folder.")] = None,
    trials: Trials = None,
    timeout: TimeoutOption = None,
    workers: Workers = None,
    storage: Annotated[str | None, typer.Option(help="Join a study from its database: its URL.")] = None,
    study: Annotated[str | None, typer.Option(help="With --storage: the study's name.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --storage: the folder to make; by default outputs/STUDY.")
    ] = None,
    memory_limit: MemoryLimit = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Go on with a run, after any kind of stop."""
    from evomerge.runs.launch import go_on
    from evomerge.runs.run import join_run, open_run
    from evomerge.search.config import seconds

    if (run is None) == (storage is None) or (storage is None) != (study is None):
        raise InputError("resume must be given either a run's folder, or --storage and --study")
    limit = None if timeout is None else _duration(seconds, timeout)
    if run is not None:
        opened = open_run(run)
    else:
        opened = join_run(str(storage), str(study), out or Path("outputs") / str(study), trust or ())
    with progress() as bar:
        go_on(opened, bar, trials, limit, memory_limit, workers)
    tell_result(opened, as_json)


def _duration(parse: Any, text: str) -> float:
    try:
        return float(parse(text))
    except ValueError as error:
        raise InputError(f"--timeout: {error}") from None
