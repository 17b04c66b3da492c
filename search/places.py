"""Models and task files that lie elsewhere on this host than on the one that launched the search.

Recipes name models by the paths that the search was launched with, everywhere: their digests find scores in the ledger.
Only what is opened on this host is looked for elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.engine.materialize import Merger
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.errors import InputError
from evomerge.search.config import SearchConfig, parse_config


class Places:
    """Folders of the launching host, and where the same lies here.

    Args:
        pairs: `OLD=NEW` each, both absolute; the first that fits a path counts.

    Raises:
        InputError: a pair is not of that form.
    """

    def __init__(self, pairs: Sequence[str] = ()) -> None:
        self._pairs = [_pair(text) for text in pairs]

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def here(self, path: str) -> str:
        """Where a path of the launching host lies here; what is below none of the folders, a hub id too, stays."""
        for old, new in self._pairs:
            if path == old or path.startswith(f"{old}/"):
                return new + path[len(old) :]
        return path

    def config(self, config: SearchConfig) -> SearchConfig:
        """The configuration with the places of models and task files here."""
        raw = config.model_dump(mode="json")
        moved = {section: self._moved(raw[section]) for section in ("models", "evaluate")}
        return parse_config({**raw, **moved}, "the study's configuration on this host")

    def model(self, ref: ModelRef) -> ModelRef:
        """The reference with its places here; it keeps its name."""
        adapter = None if ref.adapter is None else self.here(ref.adapter)
        return ref.model_copy(update={"model": self.here(ref.model), "adapter": adapter})

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with the models' places here."""
        experts = tuple(self.model(expert) for expert in recipe.experts)
        return recipe.model_copy(update={"base": self.model(recipe.base), "experts": experts})

    def _moved(self, tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: self._moved(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self._moved(value) for value in tree]
        return self.here(tree) if isinstance(tree, str) else tree


class MovedMerger(Merger):
    """A merger of models that lie elsewhere here; its recipes name them as the launching host does.

    Args:
        places: where they lie here.
        arguments: of Merger, with the places here.
    """

    def __init__(self, places: Places, *arguments: Any, **named: Any) -> None:
        self._places_here = places
        super().__init__(*arguments, **named)

    def apply(self, recipe: Recipe) -> None:
        """As in `Merger`."""
        super().apply(self._places_here.recipe(recipe))

    def check(self, recipe: Recipe) -> None:
        """As in `Merger`; `apply` asks with a recipe that is moved already, which stays as it is."""
        super().check(self._places_here.recipe(recipe))


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old.startswith("/") or not new.startswith("/"):
        raise InputError(f"--path must be OLD=NEW, two absolute folders, but got {text!r}")
    return old.rstrip("/"), new.rstrip("/")
