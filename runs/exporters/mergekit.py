"""mergekit.yaml: the same merge for mergekit, where it can express it exactly."""

from __future__ import annotations

from evomerge.runs.exporting import Export, exporter
from evomerge.runs.mergekit_file import mergekit_file


@exporter("mergekit.yaml")
def mergekit(export: Export) -> str | None:
    """A mergekit configuration, or None where there is no exact one; `mergekit_file` says when."""
    return mergekit_file(export).text
