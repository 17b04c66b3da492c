"""`evomerge report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.runs.verbs.options import Json, RunFolder
from evomerge.runs.verbs.output import out, print_json


def report(
    run: RunFolder,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    to: Annotated[Path | None, typer.Option(help="The file; by default report.html in the run's folder.")] = None,
    as_json: Json = False,
) -> None:
    """Write the run's report: one HTML file that needs no network."""
    from evomerge.runs.report.page import write_report
    from evomerge.runs.run import open_run

    path = write_report(open_run(run), to)
    if as_json:
        print_json({"report": str(path)})
    else:
        out().print(f"wrote {path}", highlight=False, soft_wrap=True)
    if open_it:
        typer.launch(path.resolve().as_uri())
