"""What an exported folder says about itself: a file for each exporter."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.engine.recipe import Recipe
from evomerge.registry import Registry


@dataclass(frozen=True)
class Export:
    """What exporters may tell of.

    Attributes:
        name: of the model: the exported folder's.
        recipe: the whole cause of the weights.
        sources: the content digest of each checkpoint, by the model's name.
        weights: the digest of the exported weights.
        parameters: how many numbers the model has.
        result: of the search that found the recipe, as `search.comparison.compare` returns it; None without one or
            for another trial than the winner.
        evaluation: the section `evaluate` of the search's configuration as plain data; None without a search.
    """

    name: str
    recipe: Recipe
    sources: Mapping[str, str]
    weights: str
    parameters: int
    result: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that the weights and scores depend on."""
        names = ("evomerge", "torch", "transformers", "lm_eval", "safetensors")
        return {name: importlib.metadata.version(name) for name in names}


Exporter = Callable[[Export], str | None]
EXPORTERS: Registry[Exporter] = Registry("exporter", "evomerge.runs.exporters", "evomerge.exporters")


def exporter(filename: str) -> Callable[[Exporter], Exporter]:
    """Register a function that writes the text of `filename` beside exported weights; None: there is nothing to write.

    Functions run in the alphabetical order of their filenames and see the same `Export`.
    """

    def register(function: Exporter) -> Exporter:
        EXPORTERS.add(filename, function)
        return function

    return register


def exported_files(export: Export) -> dict[str, str]:
    """The text of every file that applies, by filename."""
    texts = {name: EXPORTERS.get(name)(export) for name in EXPORTERS.names()}
    return {name: text for name, text in texts.items() if text is not None}
