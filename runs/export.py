"""Writing checkpoints: of a run's candidate, or of a recipe by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.export import Contents, check_new_folder, save_contents
from evomerge.engine.materialize import StreamedMerger, merger_of, options_of
from evomerge.engine.method import check_recipe
from evomerge.engine.recipe import Recipe
from evomerge.runs.exporting import Export, exported_files
from evomerge.sizes import parse_size

if TYPE_CHECKING:
    from evomerge.runs.run import Run


def export_run(run: Run, to: Path, trial: int | None = None, **how: Any) -> Path:
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
        **how,
    )


def write_recipe(
    recipe: Recipe,
    to: Path,
    device: str = "auto",
    *,
    memory_limit: str | int | None = None,
    tell: Callable[[str], None] = lambda line: None,
    **context: Any,
) -> Path:
    """Merge a recipe and write it as a checkpoint that transformers loads, with card, recipe and provenance.

    The folder appears whole or not at all. Where the candidate does not fit into memory it is written piece by piece.

    Args:
        recipe: what to merge.
        to: a folder that is absent or empty.
        device: where to merge.
        memory_limit: of the host's memory, such as "16GB"; None: what is free.
        tell: told of the rules applied to the models and of the memory plan, line by line.
        context: `result` and `evaluation` of `Export`.

    Returns:
        The folder.

    Raises:
        InputError: when the recipe or its sources are wrong, `to` is not new or empty, or the disk lacks room.
    """
    check_new_folder(to)
    check_recipe(recipe)
    contents = _contents(recipe, device, memory_limit, tell)
    sources = {model.name: open_checkpoint(model).digest() for model in (*recipe.experts, recipe.base)}
    parameters = sum(spec.nbytes // spec.dtype.itemsize for spec in contents.specs)

    def files(weights: str) -> dict[str, str]:
        return exported_files(Export(to.resolve().name, recipe, sources, weights, parameters, **context))

    return save_contents(contents, to, files=files)


def _contents(recipe: Recipe, device: str, memory_limit: str | int | None, tell: Callable[[str], None]) -> Contents:
    limit = None if memory_limit is None else parse_size(memory_limit)
    if recipe.stack is not None:
        whole = merger_of(recipe, device, memory_limit=limit, tell=tell, load=False)
        whole.check(recipe)
        whole.load()
        whole.apply(recipe)
        return whole.contents()
    options = {**options_of(recipe), "memory_limit": limit, "tell": tell, "load": False}
    merger = StreamedMerger(recipe.base, recipe.experts, recipe.dtype, device, **options)
    merger.check(recipe)
    merger.load()
    return merger.contents(recipe)
