"""The block of YAML that a card begins with, as the hub reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.runs.exporting import Export
from evomerge.runs.sources import is_hub_id, parts_of

TASK = "text-generation"


def metadata(export: Export) -> str:
    """`base_model`, licence, languages, tags, and the held-out results as the hub's model index.

    Sources that are folders have no identifier on the hub and are left out of `base_model`; the table of sources in the
    card names them.
    """
    from huggingface_hub import ModelCardData

    terms = export.verdict.metadata
    parts = [source for model in export.models.values() for source, _ in parts_of(model)]
    told = ModelCardData(
        model_name=export.name,
        base_model=list(dict.fromkeys(source for source in parts if is_hub_id(source))) or None,
        base_model_relation="merge",
        library_name="transformers",
        pipeline_tag=TASK,
        tags=list(dict.fromkeys(["merge", "evomerge", export.recipe.method])),
        language=sorted({language for card in export.cards.values() for language in card.languages}) or None,
        eval_results=_results(export.result) or None,
        license=terms.get("license"),
        license_name=terms.get("license_name"),
        license_link=terms.get("license_link"),
    )
    return f"---\n{told.to_yaml(line_break=chr(10))}\n---\n"


def _results(result: Mapping[str, Any] | None) -> list[Any]:
    """The winner's values on the documents that nothing saw before."""
    from huggingface_hub import EvalResult

    if result is None:
        return []
    split = result["split"]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=task,
            dataset_name=task,
            dataset_split=split,
            metric_type=row["metric"],
            metric_name=f"{row['metric']} on the split {split}",
            metric_value=round(row[split], 6),
        )
        for task, row in result["winner"]["tasks"].items()
    ]
