"""recipe.yaml: merges the same model again."""

from __future__ import annotations

from evomerge.runs.exporting import Export, exporter
from evomerge.runs.files import as_yaml


@exporter("recipe.yaml")
def recipe(export: Export) -> str:
    """The recipe as `evomerge merge` reads it."""
    return as_yaml(export.recipe)
