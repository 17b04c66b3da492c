"""What an exported folder says about itself: a file for each exporter."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.registry import Registry
from evomerge.runs.licences import Verdict, judge
from evomerge.runs.sources import Card
from evomerge.search.slices import Shape


@dataclass(frozen=True)
class Found:
    """How a search found the recipe.

    Attributes:
        number: of the trial.
        objective: of the trial on the documents that the search saw; None: it has none.
        config: the search's configuration as plain data.
        trials: by state, as `runs.status.status` counts them.
        documents: how many were "scored", and how many "full" scoring would have taken.
    """

    number: int
    objective: float | None
    config: Mapping[str, Any]
    trials: Mapping[str, int]
    documents: Mapping[str, int]


@dataclass(frozen=True)
class Export:
    """What exporters may tell of.

    Attributes:
        name: of the model: the exported folder's.
        repository: of the hub that the model goes to; empty: none.
        recipe: the whole cause of the weights.
        sources: the content digest of each checkpoint, by the model's name.
        weights: the digest of the exported weights.
        parameters: how many numbers the model has.
        result: of the search that found the recipe, as `search.comparison.compare` returns it; None without one or
            for another trial than the winner.
        evaluation: the section `evaluate` of the search's configuration as plain data; None without a search.
        found: how a search found the recipe; None without one.
        verdict: over the licences of the sources.
        cards: what the sources say of themselves, by the models' names.
        shape: where the merged parameters lie, by the names that files use; None where layers cannot be told.
        tokens: how many the tokenizer has; None without one.
        rows: of the input embedding; 0 where it is not known.
        largest: the number of elements of the largest tensor.
    """

    name: str
    recipe: Recipe
    sources: Mapping[str, str]
    weights: str
    parameters: int
    result: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    repository: str = ""
    found: Found | None = None
    verdict: Verdict = field(default_factory=lambda: judge(()))
    cards: Mapping[str, Card] = field(default_factory=dict)
    shape: Shape | None = None
    tokens: int | None = None
    rows: int = 0
    largest: int = 0

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that the weights and scores depend on."""
        names = ("evomerge", "torch", "transformers", "lm_eval", "safetensors")
        return {name: importlib.metadata.version(name) for name in names}

    @property
    def models(self) -> dict[str, ModelRef]:
        """All sources by name, the base first; an expert that is the base, too, once."""
        return {model.name: model for model in (self.recipe.base, *self.recipe.experts)}


def public_name(model: ModelRef) -> str:
    """How the public may know a source: an adapter stands for the model it makes."""
    return short_name(model.adapter or model.model)


def short_name(source: str) -> str:
    """A hub id as it is; of a folder of this machine its name only."""
    return Path(source).name if Path(source).is_absolute() else source


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
