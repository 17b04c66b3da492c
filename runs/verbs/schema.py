"""`evomerge schema`."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON schema of a search's configuration, for editors."""
    from evomerge.runs.schema import schema_text

    print(schema_text(), end="")
