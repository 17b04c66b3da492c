"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Trials = Annotated[int | None, typer.Option(min=1, help="Candidates in all, warm starts and earlier ones included.")]
TimeoutOption = Annotated[str | None, typer.Option("--timeout", help="Stop after so long, such as 90s, 30m, 2h.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes that score candidates side by side.")]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", help="With --storage: a model, function, class or folder that may be run or read."),
]
LogFormat = Annotated[
    Literal["text", "json"],
    typer.Option(
        "--log-format",
        envvar="EVOMERGE_LOG_FORMAT",
        help="Of what is told on standard error: text with a bar, or lines of JSON.",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:i, or balanced over all GPUs.")]
MemoryLimit = Annotated[str | None, typer.Option(help="Of the host's memory, such as 16GB; by default what is free.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key.path=value in place of the file's.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]
