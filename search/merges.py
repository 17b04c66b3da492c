"""The methods that a search chooses from, as its space takes them. No torch here."""

from __future__ import annotations

from evomerge.engine.method import METHODS, validate
from evomerge.engine.recipe import Recipe
from evomerge.search.config import SearchConfig
from evomerge.spaces import Merge


def merges_of(config: SearchConfig) -> list[Merge]:
    """Each of the configuration's methods, with the recipe that its candidates fill.

    Raises:
        InputError: for an unknown method, options that it does not have, or a number of experts that it does not take.
    """
    return [_merge(config, name) for name in config.merge.method]


def _merge(config: SearchConfig, name: str) -> Merge:
    method = METHODS.get(name)
    validate(method, {}, config.merge.options, [expert.name for expert in config.models.experts])
    template = Recipe(
        base=config.models.base,
        experts=config.models.experts,
        method=name,
        options=config.merge.options,
        dtype=config.merge.dtype,
        tokenizer=config.merge.tokenizer,
        allow_nonfinite=config.merge.allow_nonfinite,
        seed=config.search.seed,
    )
    return Merge(template, method.parameters)
