"""Runs made up for reports: studies in memory with as many trials, experts and layers as a test likes; no models."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from evomerge.engine.recipe import Group, Recipe, StackLayer
from evomerge.evaluators import DocumentScore, TaskMetric
from evomerge.runs.files import as_yaml, write_text
from evomerge.runs.run import CONFIG_FILE, Run
from evomerge.search.config import parse_config
from evomerge.search.curriculum import STAGE
from evomerge.search.problem import reference_recipes
from evomerge.search.storage import open_storage, quiet_optuna, sqlite_url
from evomerge.search.study import (
    CONSTRAINTS,
    DIGEST,
    ESTIMATED,
    NOTES,
    ORIGIN,
    PRUNED,
    REASON,
    RECIPE,
    RESULT,
    SCORED,
    SECONDS,
    TASKS,
    TOLD,
    create_study,
)

DOCUMENTS = 150  # of each task on each split


@dataclass
class Made:
    """A run to be made.

    Attributes:
        folder: of the run.
        experts, tasks: names.
        layers: 0: one number for each expert.
        modules: groups of modules.
        trials: how many with a score.
        failed: how many without.
        finished: whether the comparison is there.
        stack: whether the recipes stack layers.
        gain: of the winner over the best source, on average over documents.
        sections: of the configuration, over the default's.
        kept: further attributes of the study.
    """

    folder: Path
    experts: Sequence[str] = ("math", "code")
    tasks: Sequence[str] = ("zoo_math", "zoo_code")
    layers: int = 4
    modules: Sequence[str] = ("attention", "all")
    trials: int = 40
    failed: int = 0
    finished: bool = True
    stack: bool = False
    gain: float = 0.3
    sections: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Run:
        quiet_optuna()
        raw: dict[str, Any] = {
            "name": "made",
            "models": {"base": {"model": "/zoo/base", "name": "base"}, "experts": [*map(self._model, self.experts)]},
            "evaluate": {"tasks": list(self.tasks)},
            "search": {"trials": max(1, self.trials + self.failed)},
        }
        raw |= {name: {**raw.get(name, {}), **section} for name, section in self.sections.items()}
        self.config = parse_config(raw, "made")
        self.metrics = [TaskMetric(task, "acc") for task in self.tasks]
        storage = open_storage(sqlite_url(self.folder / "study.db"))
        begun = create_study(storage, self.config, self.metrics)
        self.study = optuna.create_study(study_name=begun.study_name, directions=begun.directions)  # in memory
        for name, value in begun.user_attrs.items():
            self.study.set_user_attr(name, value)
        write_text(self.folder / CONFIG_FILE, as_yaml(self.config))
        run = Run(self.folder, self.config, self.study, storage)
        self._add_trials()
        for name, value in self.kept.items():
            self.study.set_user_attr(name, value)
        if self.finished and self.trials:
            self._finish(run)
        return run

    @staticmethod
    def _model(name: str) -> dict[str, str]:
        return {"model": f"/zoo/{name}", "name": name}

    def recipe(self, number: int) -> Recipe:
        """Of a trial: the weights wander."""
        models = self.config.models
        groups = []
        spans = [(layer, layer + 1) for layer in range(self.layers)] if self.layers else ["all"]
        for row, span in enumerate(spans):
            for column, modules in enumerate(self.modules):
                weights = {
                    name: round(0.6 + 0.4 * math.sin(1.0 + place + row / 3 + column + number / 7), 4)
                    for place, name in enumerate(self.experts)
                }
                groups.append(Group(layers=span, modules=modules, parameters={"weight": weights, "density": 0.5}))
        if self.layers:
            groups.append(Group(layers="outside", parameters={"weight": dict.fromkeys(self.experts, 0.5)}))
        stack = None
        if self.stack:
            stack = (
                *(StackLayer(layer=layer) for layer in range(self.layers)),
                StackLayer(layer=1, source=self.experts[0], scale=0.9),
            )
        return Recipe(base=models.base, experts=models.experts, method="ties", groups=tuple(groups), stack=stack)

    def _add_trials(self) -> None:
        shared = None if self.trials <= 400 else self.recipe(0)  # thousands of recipes take seconds to make
        scored = []
        for number in range(self.trials):
            recipe = self.recipe(number) if shared is None or number == self._best else shared
            scored.append(self._trial(number, recipe))
        for number in range(self.trials, self.trials + self.failed):
            attributes = {REASON: f"logits are NaN <i>in</i> layer {number % 2}", SECONDS: {"merge": 0.5}, TOLD: number}
            scored.append(create_trial(state=TrialState.FAIL, user_attrs=attributes))
        self.study.add_trials(scored)

    @property
    def _best(self) -> int:
        return self.trials * 3 // 4

    def _trial(self, number: int, recipe: Recipe) -> optuna.trial.FrozenTrial:
        values = [self._value(number, place) for place in range(len(self.tasks))]
        several = self.config.evaluate.objective == "pareto"
        is_stopped = number % 3 == 1
        attributes: dict[str, Any] = {
            RECIPE: recipe.model_dump_json(),
            DIGEST: recipe.digest,
            ORIGIN: "uniform" if number == 0 else "",
            TASKS: {task: {"metric": "acc", "value": value} for task, value in zip(self.tasks, values, strict=True)},
            SCORED: [30 if is_stopped else 300, 300],
            SECONDS: {"merge": 0.1, "score": 1.0, "sampler": 0.4},
            PRUNED: is_stopped,
            TOLD: number,
            STAGE: {
                "index": number * 3 // self.trials,
                "name": f"stage {number * 3 // self.trials}",
                "begun": 0,
                "method": "ties",
                "improvement": None,
            },
        }
        if is_stopped:
            attributes[ESTIMATED] = True
        if number == 3:
            attributes[NOTES] = ["stage stage 0: 3 numbers, at most 4 of the trials left; the search begins"]
        if self.config.evaluate.constraints:
            attributes[CONSTRAINTS] = {self.config.evaluate.constraints[0].name: 0.1 if number % 5 == 4 else -0.1}
        return create_trial(
            values=values if several else [float(np.mean(values))],
            params={"weight": 0.5},
            distributions={"weight": FloatDistribution(0.0, 1.0)},
            user_attrs=attributes,
        )

    def _value(self, number: int, place: int) -> float:
        if number == self._best:
            return 0.9
        return 0.4 + 0.3 * number / self.trials + 0.1 * math.sin(number + 2 * place)

    def _finish(self, run: Run) -> None:
        """The comparison, with a ledger that bears it out."""
        generator = np.random.default_rng(0)
        recipes = {"winner": self.recipe(self._best), **reference_recipes(self.config)}
        means: dict[str, dict[str, float]] = {}
        thresholds = generator.random((len(self.tasks), DOCUMENTS))
        for place, (name, recipe) in enumerate(recipes.items()):
            level = 0.8 if name == "winner" else 0.8 - self.gain - 0.01 * place
            solved = (thresholds + 0.1 * generator.standard_normal(thresholds.shape) < level).astype(float)
            means[name] = dict(zip(self.tasks, solved.mean(axis=1).tolist(), strict=True))
            for split in ("search", "select", "report") if name == "winner" else ("report",):
                rows = [
                    DocumentScore(task, f"{split}{index:04d}", "acc", float(value))
                    for task, row in zip(self.tasks, solved, strict=True)
                    for index, value in enumerate(row)
                ]
                run.ledger.record(recipe.digest, self._best if name == "winner" else None, split, rows)
        self.study.set_user_attr(RESULT, self._result(means))

    def _result(self, means: dict[str, dict[str, float]]) -> dict[str, Any]:
        objective = {name: float(np.mean(list(row.values()))) for name, row in means.items()}
        winner = objective.pop("winner")
        told = {
            task: {"metric": "acc", "search": 0.9, "select": 0.8, "report": value}
            for task, value in means["winner"].items()
        }
        baselines = {
            name: {
                "objective": value,
                "tasks": means[name],
                "difference": winner - value,
                "difference_interval": [winner - value - 0.04, winner - value + 0.04],
                "feasible": True,
            }
            for name, value in objective.items()
        }
        members = [self._best, 0, self.trials - 1]
        front = [
            {"number": each, "tasks": {task: self._value(each, place) for place, task in enumerate(self.tasks)}}
            for each in members
        ]
        return {
            **({"front": front} if self.config.evaluate.objective == "pareto" else {}),
            "split": "report",
            "winner": {
                "number": self._best,
                "objective": winner,
                "interval": [winner - 0.05, winner + 0.05],
                "tasks": told,
            },
            "feasible": True,
            "constraints": {},
            "finalists": [],
            "pick": "the highest weighted mean of the tasks on the documents of search and select together",
            "shrinkage": {"search": 0.9, "chosen": 0.85, "expected": 0.83, "shrinkage": 0.02, "interval": [0.78, 0.88]},
            "baselines": baselines,
        }


def text_of(page: str) -> str:
    """What of a page of HTML is text, blanks as one."""
    import html
    import re

    without = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", without)).split())


def charts_of(page: str) -> dict[str, Any]:
    """The figures of a page by name."""
    import re

    found = re.findall(r'<script type="application/json" data-chart="([^"]+)">(.*?)</script>', page, flags=re.DOTALL)
    return {name: json.loads(figure) for name, figure in found}
