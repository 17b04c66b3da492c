"""`evomerge eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.options import (
    Device,
    Json,
    MemoryLimit,
    Settings,
)
from evomerge.runs.verbs.output import out, print_json, tell


def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder, a hub id, or a recipe.")],
    config: Annotated[Path, typer.Option(help="The search's YAML file.")],
    split: Annotated[str, typer.Option(help="search, select, report or all.")] = "all",
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Run the code that comes with this model of a recipe; may be repeated."),
    ] = None,
    device: Device = None,
    memory_limit: MemoryLimit = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Score a model or recipe the way a search with CONFIG would."""
    from evomerge.runs.evaluation import evaluate_source
    from evomerge.search.config import load_config

    given = {"runtime.device": device, "runtime.memory_limit": memory_limit}
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    told = evaluate_source(model, load_config(config, [*(settings or []), *flags]), split, tell, trust or ())
    if as_json:
        print_json(told)
    else:
        from evomerge.runs.console import evaluation_table

        out().print(evaluation_table(told))
