"""evomerge.json: where the weights come from, for programs."""

from __future__ import annotations

import json

from evomerge.runs.exporting import Export, exporter


@exporter("evomerge.json")
def provenance(export: Export) -> str:
    """Digests of sources, recipe and weights, versions, seed and scores."""
    models = export.models
    licences = {found.model: found.name for found in export.verdict.sources}
    told = {
        "recipe": export.recipe.digest,
        "method": export.recipe.method,
        "seed": export.recipe.seed,
        "weights": {"digest": export.weights, "parameters": export.parameters, "dtype": export.recipe.dtype},
        "sources": {
            name: {
                "model": models[name].model,
                "revision": models[name].revision,
                "adapter": models[name].adapter,
                "licence": licences.get(name, "unknown"),
                "digest": digest,
            }
            for name, digest in export.sources.items()
        },
        "licence": export.verdict.kind,
        "versions": export.versions,
        "trial": None if export.found is None else export.found.number,
        "scores": export.result,
    }
    return json.dumps(told, indent=2) + "\n"
