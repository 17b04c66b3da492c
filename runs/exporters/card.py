"""README.md: the model card."""

from __future__ import annotations

from evomerge.runs.cards import origin, terms, usage
from evomerge.runs.cards.metadata import metadata
from evomerge.runs.cards.results import results
from evomerge.runs.exporting import Export, exporter, public_name


@exporter("README.md")
def card(export: Export) -> str:
    """A card with the hub's metadata, held-out results with intervals, origin, terms, limits and use."""
    sections = [
        metadata(export) + _what(export),
        results(export),
        usage.loading(export),
        usage.limits(export),
        origin.sources(export),
        terms.licence(export),
        origin.search(export),
        origin.recipe(export),
        origin.citation(export),
    ]
    return "\n".join(section for section in sections if section)


def _what(export: Export) -> str:
    recipe = export.recipe
    experts = ", ".join(f"`{public_name(expert)}`" for expert in recipe.experts)
    found = "found by an evolutionary search with evomerge" if export.found else "merged with evomerge"
    layers = f", {len(recipe.stack)} layers in an order of their own" if recipe.stack else ""
    return (
        f"# {export.name}\n\n"
        f"A merge of {experts} on the base `{public_name(recipe.base)}`, {found}. "
        f"Method: {recipe.method}; {export.parameters:,} parameters in {recipe.dtype}{layers}.\n"
    )
