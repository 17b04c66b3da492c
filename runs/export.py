"""Writing checkpoints: of a run's candidate, or of a recipe by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.engine.checkpoint import Checkpoint, open_checkpoint
from evomerge.engine.export import Contents, check_target, save_contents
from evomerge.engine.headers import BITS
from evomerge.engine.materialize import StreamedMerger, merger_of, options_of
from evomerge.engine.method import check_recipe
from evomerge.engine.recipe import Recipe
from evomerge.errors import InputError
from evomerge.runs.exporting import Export, Found, exported_files
from evomerge.runs.licences import Verdict, check_licences, verdict
from evomerge.runs.sources import card_of, parts_of
from evomerge.search.slices import Shape, depth_of, shape_of, shape_of_names
from evomerge.search.study import complete_trials, study_tasks, trial_objective
from evomerge.sizes import parse_size

if TYPE_CHECKING:
    from evomerge.runs.run import Run

Tell = Callable[[str], None]
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


def export_run(run: Run, to: Path, trial: int | None = None, **how: Any) -> Path:
    """Write the checkpoint of a trial, by default of the best; see `write_recipe`.

    Raises:
        InputError: when there is no such trial, it has no recipe, or as `write_recipe`.
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
        found=_found(run, number),
        **how,
    )


def write_recipe(
    recipe: Recipe,
    to: Path,
    device: str = "auto",
    *,
    memory_limit: str | int | None = None,
    chat_template: str | None = None,
    accept_licence: bool = False,
    licences: Mapping[str, str] | None = None,
    tell: Tell = lambda line: None,
    **context: Any,
) -> Path:
    """Merge a recipe and write it as a checkpoint that transformers loads, with card, recipe and provenance.

    The folder appears whole or not at all. Where the candidate does not fit into memory it is written piece by piece.
    What costs little is checked first: the folder, the room on the disk, the recipe, the licences.

    Args:
        recipe: what to merge.
        to: a folder that is absent or empty.
        device: where to merge.
        memory_limit: of the host's memory, such as "16GB"; None: what is free.
        chat_template: of the result's tokenizer; None: the one it has.
        accept_licence: write it even where the licences of the sources do not allow a merge of them.
        licences: by the models' names, instead of what their cards and files say.
        tell: told of licences, of the rules applied to the models and of the memory plan, line by line.
        context: `result`, `evaluation`, `found` and `repository` of `Export`.

    Returns:
        The folder.

    Raises:
        InputError: when the recipe or its sources are wrong, `to` is not new or empty or cannot be written, the disk
            lacks room, or the licences of the sources do not allow a merge of them and `accept_licence` is not given.
    """
    check_target(to)
    check_recipe(recipe)
    base = open_checkpoint(recipe.base)
    check_target(to, _least_size(recipe, base))
    found = verdict((recipe.base, *recipe.experts), licences)
    check_licences(found, accept_licence)
    for line in found.lines():
        tell(line)
    contents = _contents(recipe, device, memory_limit, tell)
    if chat_template is not None:
        contents = _with_template(contents, chat_template)
    sources = {model.name: open_checkpoint(model).digest() for model in (*recipe.experts, recipe.base)}

    def files(weights: str) -> dict[str, str]:
        told = {**context, **_described(recipe, base, contents, found)}
        return exported_files(Export(to.resolve().name, recipe, sources, weights, _parameters(contents), **told))

    return save_contents(contents, to, files=files)


def _contents(recipe: Recipe, device: str, memory_limit: str | int | None, tell: Tell) -> Contents:
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


def _least_size(recipe: Recipe, base: Checkpoint) -> int:
    """Bytes that the weights take at least, by the headers of the base; less with a stack that drops layers."""
    numbers = sum(header.nbytes * 8 // BITS[header.dtype] for header in base.headers.values())
    kept = 1.0 if recipe.stack is None else min(1.0, len(recipe.stack) / max(depth_of(base), 1))
    return int(numbers * kept) * WIDTHS[recipe.dtype]


def _with_template(contents: Contents, template: str) -> Contents:
    if contents.tokenizer is None:
        raise InputError("a chat_template must have a tokenizer to go with, but the result has none")
    contents.tokenizer.chat_template = template
    return contents


def _described(recipe: Recipe, base: Checkpoint, contents: Contents, found: Verdict) -> dict[str, Any]:
    """What exporters are told of the checkpoint and its sources."""
    rows = [spec.shape[0] for spec in contents.specs if spec.name.endswith(("embed_tokens.weight", "wte.weight"))]
    return {
        "verdict": found,
        "cards": {model.name: card_of(*parts_of(model)[-1]) for model in (recipe.base, *recipe.experts)},
        "shape": _shape(recipe, base, contents),
        "tokens": None if contents.tokenizer is None else len(contents.tokenizer.get_vocab()),
        "rows": rows[0] if rows else 0,
        "largest": max(spec.nbytes // spec.dtype.itemsize for spec in contents.specs),
    }


def _shape(recipe: Recipe, base: Checkpoint, contents: Contents) -> Shape | None:
    """Of what is merged; with a stack that is not what is written."""
    if recipe.stack is None:
        return shape_of_names([spec.name for spec in contents.specs if spec.dtype.is_floating_point], depth_of(base))
    try:
        return shape_of(base)
    except InputError:
        return None


def _parameters(contents: Contents) -> int:
    return sum(spec.nbytes // spec.dtype.itemsize for spec in contents.specs)


def _found(run: Run, number: int) -> Found:
    from evomerge.runs.status import status

    told = status(run)
    scored = {trial.number for trial in complete_trials(run.study)}
    objective = trial_objective(run.trial(number), study_tasks(run.study)) if number in scored else None
    config = run.config.model_dump(mode="json")
    return Found(number, objective, config, told["trials"], told["documents"])
