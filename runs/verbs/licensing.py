"""The options about the licences of sources."""

from __future__ import annotations

from typing import Annotated

import typer

AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-licence", help="Write it even where the sources' licences do not allow a merge of them."),
]
StatedLicences = Annotated[
    list[str] | None,
    typer.Option(
        "--licence", metavar="NAME=LICENCE", help="The licence of a source, such as math=apache-2.0; may be repeated."
    ),
]
