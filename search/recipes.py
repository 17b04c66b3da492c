"""Reading recipes: evomerge's own, in YAML or JSON, and mergekit's YAML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evomerge.engine.recipe import Recipe
from evomerge.errors import InputError
from evomerge.search.config import first_error, read_mapping
from evomerge.search.mergekit import chat_template_of, fields_of


class MergeFile(NamedTuple):
    """What a file of a merge says.

    Attributes:
        recipe: the merge.
        chat_template: of the result's tokenizer, where a mergekit configuration gives one; None: the tokenizer's own.
    """

    recipe: Recipe
    chat_template: str | None


def is_recipe(source: str) -> bool:
    """Whether `source` is a file that can only be a recipe."""
    return Path(source).suffix.lower() in (".yaml", ".yml", ".json") and Path(source).is_file()


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; relative paths in it are relative to its folder.

    Raises:
        InputError: one line that names the file and the key, the rule, the value found, and the nearest known name; or
            the file gives a chat template, which is no part of a recipe.
    """
    read = read_merge(path)
    if read.chat_template is not None:
        raise InputError(f"{path}: chat_template is read by `evomerge merge` only; leave it out here")
    return read.recipe


def read_merge(path: Path, tell: Callable[[str], None] = lambda line: None) -> MergeFile:
    """The recipe in a file, and the chat template that it asks for.

    Args:
        path: of a recipe, or of a mergekit configuration.
        tell: told of what has no effect and is left out, line by line.

    Raises:
        InputError: as `read_recipe`.
    """
    raw = read_mapping(path, "recipe")
    folder = path.resolve().parent
    template: str | None = None
    fields: dict[str, Any] = raw
    if "merge_method" in raw:
        try:
            fields, template = fields_of(raw, folder, tell), chat_template_of(raw, folder)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error, Recipe)}") from None
    update = {
        "base": recipe.base.relative_to(folder),
        "experts": tuple(expert.relative_to(folder) for expert in recipe.experts),
    }
    return MergeFile(recipe.model_copy(update=update), template)
