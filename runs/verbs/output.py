"""How verbs speak: tables and JSON on standard output, the rest on standard error."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def progress() -> Any:
    """A progress bar, or lines of JSON, on standard error; a context manager and a Listener."""
    if _is_json():
        from evomerge.runs.lines import JsonLines

        return JsonLines(sys.stderr)
    from rich.console import Console

    from evomerge.runs.console import ProgressBar

    return ProgressBar(Console(stderr=True))


def out() -> Any:
    """The console on standard output."""
    from rich.console import Console

    return Console()


def tell(line: str) -> None:
    """A line on standard error."""
    if _is_json():
        from evomerge.runs.lines import JsonLines

        JsonLines(sys.stderr).note(line)
    else:
        print(line, file=sys.stderr)


def _is_json() -> bool:
    return os.environ.get("EVOMERGE_LOG_FORMAT") == "json"


def tell_result(run: Any, as_json: bool) -> None:
    """What a finished search found."""
    if as_json:
        from evomerge.runs.status import status as told

        print_json({**told(run), "folder": str(run.folder), "comparison": run.result})
        return
    from evomerge.runs.console import comparison_table

    console = out()
    console.print(comparison_table(run.result))
    console.print(f"best recipe: {run.folder / 'best' / 'recipe.yaml'}", highlight=False, soft_wrap=True)
    console.print(f"report: {run.folder / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"export it: evomerge export {run.folder} --to DIR", highlight=False, soft_wrap=True)


def tell_folder(folder: Path, as_json: bool) -> None:
    """That a folder has been written."""
    if as_json:
        print_json({"folder": str(folder)})
    else:
        out().print(f"wrote {folder}", highlight=False, soft_wrap=True)


def print_json(told: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(told, indent=2, allow_nan=False))
