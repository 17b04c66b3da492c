"""Whose word counts: a configuration or a recipe that comes from elsewhere runs no code that the user has not named.

What a user writes into a file and names on the command line is the user's own word. A study that is joined through its
database alone, and a recipe, may be anybody's: there each thing that would run code, or read a file of this machine,
has to be named by whoever joins or merges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.errors import InputError
from evomerge.search.config import SearchConfig, is_recipe_file

UNSAFE_CODE = "unsafe-code"
"""The name that admits `evaluate.allow_unsafe_code`: code that candidates write."""


def needs_of(config: SearchConfig) -> Iterator[tuple[str, str]]:
    """What a configuration runs or reads beside weights: (key, the name that admits it).

    Names are `package.module:Class` of a sampler, `package.module:function` of a task, a model with trust_remote_code,
    `unsafe-code`, and paths: a folder of task files, whose functions are code, or a file of documents or a recipe.
    """
    yield from _models("models.base", [config.models.base])
    yield from _models("models.experts", config.models.experts)
    if ":" in config.search.sampler:
        yield "search.sampler", config.search.sampler
    for start in config.search.warm_start:
        if is_recipe_file(start):
            yield "search.warm_start", start
    for folder in config.evaluate.include_paths:
        yield "evaluate.include_path", str(folder)
    if config.evaluate.allow_unsafe_code:
        yield "evaluate.allow_unsafe_code", UNSAFE_CODE
    specs = [*config.evaluate.tasks, *(constraint.spec for constraint in config.evaluate.constraints)]
    for spec in specs:
        named = {"function": spec.function, "perplexity": spec.perplexity, "kl_from_base": spec.kl_from_base}
        for kind, value in {**named, "documents": spec.documents}.items():
            if value is not None:
                yield f"evaluate.tasks {spec.task}.{kind}", str(value)


def require_trusted(config: SearchConfig, trusted: Collection[str], whose: str) -> None:
    """Check that the user has named all code and files of a configuration that came from a database.

    Args:
        config: from the database.
        trusted: what the user has named; a folder admits everything below it.
        whose: the configuration, for errors: "study x".

    Raises:
        InputError: it wants something that is not named.
    """
    for key, name in needs_of(config):
        if not _is_named(name, trusted):
            raise InputError(
                f"{whose}: what a database says must be named to be run or read, but {key} is {name}; if you trust "
                f"it, add --trust {name}"
            )


def require_trusted_recipe(recipe: Recipe, trusted: Collection[str], whose: str) -> None:
    """Check that the user has named the models of a recipe that run code of their own.

    Args:
        recipe: from a file.
        trusted: what the user has named.
        whose: the recipe, for errors.

    Raises:
        InputError: a model has trust_remote_code and is not named.
    """
    for key, name in _models("a model with trust_remote_code", [recipe.base, *recipe.experts]):
        if not _is_named(name, trusted):
            raise InputError(
                f"{whose}: {key} must be named on the command line, but {name} is not; if you trust its code, add "
                f"--trust {name}"
            )


def require_own_models(recipe: Recipe, config: SearchConfig, whose: str) -> None:
    """Raise InputError unless a recipe from the database of a run merges the run's own models and no others."""
    own = [config.models.base, *config.models.experts]
    for ref in (recipe.base, *recipe.experts):
        if ref not in own:
            raise InputError(f"{whose} must merge the models of its run, but names {ref.model!r} as {ref.name!r}")


def _models(key: str, models: Collection[ModelRef]) -> Iterator[tuple[str, str]]:
    return ((key, ref.model) for ref in models if ref.trust_remote_code)


def _is_named(name: str, trusted: Collection[str]) -> bool:
    path = Path(name)
    return name in trusted or any(
        path.is_absolute() and path.resolve().is_relative_to(Path(folder).expanduser().resolve()) for folder in trusted
    )
