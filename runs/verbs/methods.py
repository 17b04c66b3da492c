"""`evomerge methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from evomerge.runs.verbs.options import (
    Json,
)
from evomerge.runs.verbs.output import out, print_json


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, explained in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the merge methods: what each is for, its parameters with their ranges, and its paper."""
    from evomerge.runs.methods import described, everything, method_page, methods_table

    if as_json:
        print_json(everything() if name is None else described(name))
    else:
        out().print(methods_table() if name is None else method_page(name))
