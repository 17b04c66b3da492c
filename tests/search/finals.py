"""The end of a toy search, with its trials put there one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from evomerge.engine.recipe import Group, Recipe
from evomerge.evaluators import Scores
from evomerge.evaluators.objective import objective
from evomerge.search.comparison import compare
from evomerge.search.listener import Listener
from evomerge.search.references import resolve_bounds
from evomerge.search.selection import choose
from evomerge.search.study import CONSTRAINTS, DIGEST, ESTIMATED, NOISE, ORIGIN, PRUNED, RECIPE, STDERR, TASKS
from tests.search.toy import ToyRun, toy_config

NO_WORSE_THAN_B = {"task": "right", "at_least": "b"}
SIZES = {"search": 200, "select": 100, "report": 100}


class Notes(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Final:
    """A toy study whose trials are put there one by one: the two weights decide the scores."""

    def __init__(self, folder: Path, **evaluate: Any) -> None:
        self.config = toy_config(evaluate=evaluate, search={"finalists": 3})
        self.run = ToyRun(folder, self.config, sizes=SIZES)
        self.notes = Notes()

    def recipe(self, a: float, b: float) -> Recipe:
        models = self.config.models
        group = Group(parameters={"weight": {"a": a, "b": b}})
        return Recipe(base=models.base, experts=models.experts, method="task_arithmetic", groups=(group,))

    def add(
        self,
        a: float,
        b: float,
        estimate: list[float] | None = None,
        stderr: float = 0.0,
        origin: str = "",
        is_stopped: bool = False,
        noise: float = math.nan,
    ) -> int:
        """A trial scored in full, or with an estimate in place of its values; it notes what a real one does."""
        recipe = self.recipe(a, b)
        trial = self.run.study.ask()
        trial.set_user_attr(RECIPE, recipe.model_dump_json())
        trial.set_user_attr(DIGEST, recipe.digest)
        trial.set_user_attr(ORIGIN, origin)
        trial.set_user_attr(PRUNED, is_stopped)
        if not math.isnan(noise):
            trial.set_user_attr(NOISE, noise)
        scores = self.run.scorer.score(recipe, "search", trial.number)
        trial.set_user_attr(CONSTRAINTS, resolve_bounds(self.run.problem, self.run.scorer, "search").violations(scores))
        tasks = {task.task: {"metric": "acc", "value": scores.task(task).mean} for task in self.run.evaluator.tasks}
        trial.set_user_attr(TASKS, tasks)
        if estimate is not None:
            trial.set_user_attr(ESTIMATED, True)
            trial.set_user_attr(STDERR, stderr)
        self.run.study.tell(trial, estimate or self.values(scores))
        return trial.number

    def values(self, scores: Scores) -> list[float]:
        tasks, kind = self.run.evaluator.tasks, self.config.evaluate.objective
        if kind == "pareto":
            return [task.sign * scores.task(task).mean for task in tasks]
        return [objective(scores, tasks, kind)]

    def choose(self) -> Any:
        return choose(self.run.problem, self.run.study, self.run.scorer, self.notes)

    def compare(self) -> dict[str, Any]:
        return compare(self.run.problem, self.run.study, self.run.scorer, self.choose(), self.notes)
