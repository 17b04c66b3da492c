"""Writing checkpoints: of a run's candidate, or of a recipe by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.compatibility import check_compatible
from evomerge.engine.export import check_new_folder, save_checkpoint, weights_digest
from evomerge.engine.materialize import Merger
from evomerge.engine.method import check_recipe
from evomerge.engine.recipe import Recipe
from evomerge.runs.exporting import Export, exported_files

if TYPE_CHECKING:
    from evomerge.runs.run import Run


def export_run(run: Run, to: Path, trial: int | None = None) -> Path:
    """Write the checkpoint of a trial, by default of the best; see `write_recipe`.

    Raises:
        InputError: when there is no such trial, it has no recipe, or `to` is not new or empty.
        EvomergeError: when no trial has a score yet.
    """
    number = run.best.number if trial is None else trial
    is_winner = run.result is not None and run.result["winner"]["number"] == number
    return write_recipe(
        run.recipe(number),
        to,
        run.config.runtime.device,
        result=run.result if is_winner else None,
        evaluation=run.config.evaluate.model_dump(mode="json"),
    )


def write_recipe(recipe: Recipe, to: Path, device: str = "auto", **context: Any) -> Path:
    """Merge a recipe and write it as a checkpoint that transformers loads, with card, recipe and provenance.

    The folder appears whole or not at all.

    Args:
        recipe: what to merge.
        to: a folder that is absent or empty.
        device: where to merge.
        context: `result` and `evaluation` of `Export`.

    Returns:
        The folder.

    Raises:
        InputError: when the recipe or its sources are wrong, or `to` is not new or empty.
    """
    check_new_folder(to)
    check_recipe(recipe)
    check_compatible(recipe.base, recipe.experts)
    merger = Merger(recipe.base, recipe.experts, dtype=recipe.dtype, device=device)
    merger.apply(recipe)
    export = Export(
        name=to.resolve().name,
        recipe=recipe,
        sources={model.name: open_checkpoint(model).digest() for model in (*recipe.experts, recipe.base)},
        weights=weights_digest(merger.model),
        parameters=sum(parameter.numel() for parameter in merger.model.parameters()),
        **context,
    )
    save_checkpoint(merger.model, merger.tokenizer, to, files=exported_files(export))
    return to
