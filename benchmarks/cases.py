"""What benchmarks/search.py searches: a case is a problem, and the truth about a candidate on held-out documents.

The landscape (`LandscapeCase`) has no models: its merger hands the recipe on, and its evaluator draws outcomes from
benchmarks/landscape.py. A folder (`FolderCase`) is a configuration with real models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import yaml
from landscape import Landscape

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Recipe
from evomerge.evaluators import Document, DocumentScore, Split, TaskMetric
from evomerge.evaluators.objective import objective
from evomerge.evaluators.splits import rungs
from evomerge.search.config import load_config, parse_config
from evomerge.search.problem import Problem, build_problem, reference_recipes
from evomerge.search.scoring import Scorer
from evomerge.spaces import Merge, Space

SHARES: dict[Split, float] = {"search": 0.4, "select": 0.2, "report": 0.4}
CHUNK, FIRST = 64, 8  # of rungs, as the evaluator for models plans them
BOX = "space={layers: per_layer, modules: [attention, all], weight: [0.0, 1.3]}"


class Target(NamedTuple):
    """Held-out objectives: of the uniform merge, and the highest that is known."""

    uniform: float
    best: float

    def at(self, share: float) -> float:
        """The objective with this share of the best known gain."""
        return self.uniform + share * (self.best - self.uniform)


class Case(Protocol):
    """A problem, and the truth about it."""

    problem: Problem

    def truth(self, recipe: Recipe, scorer: Scorer) -> float:
        """The objective on the documents of `report`; costs nothing that is counted."""

    def target(self, scorer: Scorer) -> Target:
        """What is to be reached."""


class RecipeMerger:
    """The live model is the recipe itself."""

    num_layers = 4
    tokenizer = None

    def __init__(self) -> None:
        self.model: Any = None

    def apply(self, recipe: Recipe) -> None:
        """Take the recipe."""
        self.model = recipe


class LandscapeEvaluator:
    """Scores recipes on the documents of the landscape, split and ordered at random by the seed.

    Args:
        landscape: that says what is solved.
        seed: of the order and the outcomes.
        is_raced: whether there are many rungs; one is quicker where nobody looks between them.
    """

    needs_reference = False
    proxies: Mapping[str, TaskMetric] = {}

    def __init__(self, landscape: Landscape, seed: int, is_raced: bool = True) -> None:
        self._landscape, self._seed = landscape, seed
        self._rungs = (CHUNK, FIRST) if is_raced else (landscape.documents, None)
        self._outcomes: dict[str, Any] = {}
        self.tasks = tuple(TaskMetric(task, metric) for task, metric in landscape.tasks)
        generator = np.random.default_rng(seed)
        ends = np.cumsum(list(SHARES.values())).round(9)
        self._documents: dict[Split, list[Document]] = {split: [] for split in SHARES}
        offset = 0
        for task, size in zip(self.tasks, landscape.sizes, strict=True):
            for place, index in enumerate(generator.permutation(size)):
                split = list(SHARES)[int(np.searchsorted(ends, place / size, side="right"))]
                self._documents[split].append(Document(task.task, f"{offset + index:04d}", int(offset + index), split))
            offset += size

    def documents(self, split: Split) -> tuple[Document, ...]:
        """In the order of `chunks`."""
        return tuple(each for chunk in self.chunks(split) for each in chunk)

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        """The chunks of all rungs."""
        return tuple(chunk for rung in self.rungs(split) for chunk in rung)

    def rungs(self, split: Split) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        """As for models."""
        return self.planned(self._documents[split])

    def planned(self, documents: Sequence[Document]) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        """Rungs for some of the documents."""
        of_task = {task.task: [each for each in documents if each.task == task.task] for task in self.tasks}
        return rungs(of_task, *self._rungs)

    def prompts(self, count: int) -> tuple[str, ...]:
        """None: there is no text."""
        return ()

    def refer(self, model: Any) -> None:
        """Nothing is measured against a base."""

    def fingerprint(self) -> str:
        """Of the documents."""
        return f"landscape {self._seed}"

    def score(
        self, model: Recipe, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        """Outcomes, the same for a recipe whenever it is scored."""
        if model.digest not in self._outcomes:
            point = self._landscape.weights_of(model)
            self._outcomes = {model.digest: self._landscape.outcomes(point, model.digest, self._seed)}
        solved, labels = self._outcomes[model.digest], {task.task: task.label for task in self.tasks}
        return [DocumentScore(each.task, each.key, labels[each.task], float(solved[each.index])) for each in documents]


class LandscapeCase:
    """The landscape with a seed's documents.

    Args:
        seed: of the split, the outcomes and the search.
        settings: the configuration's sections, merged over the default ones.
    """

    def __init__(self, seed: int, settings: Sequence[str]) -> None:
        self._landscape = Landscape.load()
        raw: dict[str, Any] = {
            "name": "landscape",
            "models": {"base": "base", "experts": list(self._landscape.experts)},
            "merge": {"method": "task_arithmetic"},
            "space": {"layers": "per_layer", "modules": ["attention", "all"], "weight": [0.0, 1.3]},
            "evaluate": {"tasks": [task for task, _ in self._landscape.tasks], "guard": None},
            "search": {"seed": seed},
        }
        for setting in settings:
            key, _, value = setting.partition("=")
            *sections, last = key.split(".")
            place = raw
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = yaml.safe_load(value)
        config = parse_config(raw, "benchmark")
        template = Recipe(base=config.models.base, experts=config.models.experts, method="task_arithmetic")
        space = Space(config.space, RecipeMerger.num_layers, [Merge(template, METHODS.get(template.method).parameters)])
        evaluator = LandscapeEvaluator(self._landscape, seed, config.evaluate.race is not None)
        self.problem = Problem(config, RecipeMerger(), evaluator, space)  # type: ignore[arg-type]
        self._held_out = np.zeros(self._landscape.documents, dtype=bool)
        self._held_out[[each.index for each in evaluator.documents("report")]] = True

    def truth(self, recipe: Recipe, scorer: Scorer) -> float:
        """Expected, so free of the luck of outcomes."""
        return float(self._landscape.truth(self._landscape.weights_of(recipe), self._held_out)[0])

    def target(self, scorer: Scorer) -> Target:
        """The best known is the highest found by optimising the landscape itself."""
        points = np.vstack([self._landscape.uniform_weights, self._landscape.best_weights])
        uniform, best = self._landscape.truth(points, self._held_out)
        return Target(float(uniform), float(best))


class FolderCase:
    """A folder with search.yaml and real models.

    Args:
        folder: of the case.
        best: the highest objective known on the documents of `report`.
        seed: of the search.
        settings: `key=value` over the file.
    """

    def __init__(self, folder: Path, best: float, seed: int, settings: Sequence[str]) -> None:
        own = [BOX, "search.timeout=null", f"search.seed={seed}"]
        self.problem = build_problem(load_config(folder / "search.yaml", [*own, *settings]))
        self._best = best
        self._known: dict[str, float] = {}

    def truth(self, recipe: Recipe, scorer: Scorer) -> float:
        """Measured once a recipe."""
        if recipe.digest not in self._known:
            scores = scorer.score(recipe, "report", None)
            evaluate = self.problem.config.evaluate
            self._known[recipe.digest] = objective(scores, self.problem.evaluator.tasks, evaluate.objective)
        return self._known[recipe.digest]

    def target(self, scorer: Scorer) -> Target:
        """The best known is given, the uniform merge measured."""
        return Target(self.truth(reference_recipes(self.problem.config)["uniform"], scorer), self._best)
