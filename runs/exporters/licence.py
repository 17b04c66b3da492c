"""LICENSE.md: the terms that the sources come under."""

from __future__ import annotations

from evomerge.runs.cards.terms import licence_file
from evomerge.runs.exporting import Export, exporter


@exporter("LICENSE.md")
def licence(export: Export) -> str | None:
    """The sources' licences, what they ask, and their texts where the sources bring them."""
    return licence_file(export)
