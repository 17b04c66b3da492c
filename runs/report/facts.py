"""All that a report is about, read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from evomerge.engine.recipe import Recipe
from evomerge.evaluators.types import SPLITS, TaskMetric, titles
from evomerge.runs.events import read_events
from evomerge.runs.run import Run
from evomerge.runs.status import status
from evomerge.search.config import SearchConfig
from evomerge.search.rounds import current_round, is_over
from evomerge.search.study import (
    DIGEST,
    NOTES,
    REASON,
    RECIPE,
    complete_trials,
    is_estimated,
    study_tasks,
    trial_recipe,
)
from evomerge.secrets import public_url

EVENTS = "events.jsonl"
FORECAST, ACTUAL = "evomerge:forecast", "evomerge:actual"
CONFLICT, LEAKS = "evomerge:conflict", "evomerge:leaks"


@dataclass(frozen=True)
class Facts:
    """A run as it is when the report is written.

    Attributes:
        run: with its ledger.
        trials: all of them, by number.
        told: as `runs.status.status` tells it.
        kept: the study's user attributes.
    """

    run: Run
    trials: list[FrozenTrial]
    told: Mapping[str, Any]
    kept: Mapping[str, Any]

    @property
    def config(self) -> SearchConfig:
        """What was asked for."""
        return self.run.config

    @property
    def public_config(self) -> SearchConfig:
        """The same without the password of a database."""
        runtime = self.config.runtime
        if runtime.storage is None:
            return self.config
        public = runtime.model_copy(update={"storage": public_url(runtime.storage)})
        return self.config.model_copy(update={"runtime": public})

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The comparison on untouched documents; None before the search has ended."""
        return self.run.result

    @cached_property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured."""
        return study_tasks(self.run.study)

    @property
    def titles(self) -> tuple[str, ...]:
        """The tasks' names."""
        return titles(self.tasks)

    @property
    def is_open(self) -> bool:
        """Whether the search has not ended: its latest launch has no comparison yet."""
        launch = current_round(self.run.study)
        return self.result is None or (launch is not None and not is_over(self.run.study, launch))

    @cached_property
    def scored(self) -> list[FrozenTrial]:
        """The trials with values, by number."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @cached_property
    def failed(self) -> list[FrozenTrial]:
        """The trials that failed, by number."""
        return [trial for trial in self.trials if trial.state == TrialState.FAIL]

    @cached_property
    def best(self) -> FrozenTrial | None:
        """The winner, or the best trial so far; None: none has a score."""
        return self.run.best if self.result is not None or complete_trials(self.run.study) else None

    @cached_property
    def recipe(self) -> Recipe | None:
        """Of the best."""
        return None if self.best is None or RECIPE not in self.best.user_attrs else trial_recipe(self.best)

    @cached_property
    def notes(self) -> list[str]:
        """What the search said of its decisions: in this folder's events, and with the trials of all workers."""
        noted = [event for event in read_events(self.run.folder / EVENTS) if event["event"] == "note"]
        lines = [str(event.get("text", "")) for event in noted]
        lines += [str(line) for trial in self.trials for line in trial.user_attrs.get(NOTES, ())]
        return list(dict.fromkeys(line for line in lines if line))

    @cached_property
    def failures(self) -> list[tuple[str, int]]:
        """Why trials failed and how many of them, the most frequent first."""
        return Counter(str(trial.user_attrs.get(REASON, "it does not say why")) for trial in self.failed).most_common()

    @cached_property
    def split_sizes(self) -> dict[str, dict[str, int]]:
        """For each task on how many documents of which split the best was scored, where it was scored on all."""
        if self.best is None or is_estimated(self.best):
            return {}
        found: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            rows = self.run.ledger.scores(str(self.best.user_attrs.get(DIGEST)), split)
            for task, documents in Counter(task for task, _ in {(row.task, row.document) for row in rows}).items():
                found.setdefault(task, {})[split] = documents
        return found

    @cached_property
    def documents_by_task(self) -> dict[str, int]:
        """On how many documents the winner is compared, by the task's title; {} before the search has ended."""
        if self.result is None or self.best is None:
            return {}
        rows = self.run.ledger.scores(str(self.best.user_attrs.get(DIGEST)), self.result["split"])
        counts = Counter((row.task, row.metric) for row in rows)
        return {name: counts[task.task, task.label] for name, task in zip(self.titles, self.tasks, strict=True)}

    @property
    def documents_compared(self) -> int:
        """On how many documents the winner is compared; a document measured in two ways counts once."""
        largest: dict[str, int] = {}
        for task, size in zip(self.tasks, self.documents_by_task.values(), strict=False):
            largest[task.task] = max(size, largest.get(task.task, 0))
        return sum(largest.values())

    @property
    def who(self) -> str:
        """What the best is called: the winner only once the search has ended."""
        return "the best so far" if self.result is None else "the winner"


def read_facts(run: Run) -> Facts:
    """Read a run."""
    trials = run.study.get_trials(deepcopy=False)
    return Facts(run, trials, status(run), run.study.user_attrs)
