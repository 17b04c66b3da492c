"""`evomerge run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.options import (
    Device,
    Json,
    MemoryLimit,
    Settings,
    TimeoutOption,
    Trials,
    Workers,
)
from evomerge.runs.verbs.output import progress, tell_result


def run(
    config: Annotated[Path, typer.Argument(help="The search's YAML file.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default outputs/NAME.")] = None,
    trials: Trials = None,
    timeout: TimeoutOption = None,
    workers: Workers = None,
    storage: Annotated[str | None, typer.Option(help="The database's URL; by default SQLite in the folder.")] = None,
    device: Device = None,
    memory_limit: MemoryLimit = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Launch a search; it ends with the winner and its comparison on untouched documents."""
    from evomerge.runs.launch import start
    from evomerge.search.config import load_config

    given = {
        "search.trials": trials,
        "search.timeout": timeout,
        "runtime.workers": workers,
        "runtime.storage": storage,
        "runtime.device": device,
        "runtime.memory_limit": memory_limit,
    }
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    resolved = load_config(config, [*(settings or []), *flags])
    folder = out or Path("outputs") / resolved.name
    with progress() as bar:
        done = start(resolved, folder, bar)
    tell_result(done, as_json)
