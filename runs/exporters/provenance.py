"""evomerge.json: where the weights come from, for programs."""

from __future__ import annotations

import json

from evomerge.runs.exporting import Export, exporter


@exporter("evomerge.json")
def provenance(export: Export) -> str:
    """Digests of sources, recipe and weights, versions, seed and scores."""
    models = {model.name: model for model in (*export.recipe.experts, export.recipe.base)}
    told = {
        "recipe": export.recipe.digest,
        "method": export.recipe.method,
        "seed": export.recipe.seed,
        "weights": {"digest": export.weights, "parameters": export.parameters, "dtype": export.recipe.dtype},
        "sources": {
            name: {"model": models[name].model, "revision": models[name].revision, "digest": digest}
            for name, digest in export.sources.items()
        },
        "versions": export.versions,
        "scores": export.result,
    }
    return json.dumps(told, indent=2) + "\n"
