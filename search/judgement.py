"""What came out of scoring one candidate: its full score, or an estimate of it that says why it is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evomerge.errors import CandidateError
from evomerge.evaluators import Document, Scores, TaskMetric
from evomerge.evaluators.objective import Objective
from evomerge.search.constraints import Bounds
from evomerge.search.estimate import Estimate, estimates
from evomerge.search.history import History
from evomerge.search.jackknife import pseudo_values


@dataclass(frozen=True)
class Judgement:
    """The verdict on a candidate.

    Attributes:
        values: for the sampler: the objective, or one signed number a task (pareto).
        means: the tasks' scores in the order of the evaluator's tasks; estimates where `why` is not empty.
        stderr: of the objective as an estimate of its full score; 0 where it is the full score.
        violations: of the constraints by name; kept where at most 0.
        documents: how many of `search` were scored by the metric.
        why: the reason for an estimate in place of a full score; "" for a full score.
        is_stopped: whether scoring was stopped before what was planned.
        noise: standard error of a full objective where its documents are a sample of all there might be; else NaN.
    """

    values: list[float]
    means: list[float]
    stderr: float = 0.0
    violations: dict[str, float] = field(default_factory=dict)
    documents: int = 0
    why: str = ""
    is_stopped: bool = False
    noise: float = math.nan


def of_full(
    tasks: Sequence[TaskMetric], scores: Scores, bounds: Bounds, history: History, kind: Objective
) -> Judgement:
    """From the scores on all documents. Raises CandidateError where a task has no score."""
    means = [scores.number(task) for task in tasks]
    for task, mean in zip(tasks, means, strict=True):
        if math.isnan(mean):
            raise CandidateError(f"task {task.task!r} has no {task.label} on any document")
    return Judgement(
        values=history.values(means),
        means=means,
        violations=bounds.violations(scores),
        documents=count(scores, tasks),
        noise=sampling_error(tasks, scores, kind),
    )


def of_part(
    tasks: Sequence[TaskMetric],
    seen: Scores,
    documents: Sequence[Document],
    bounds: Bounds,
    history: History,
    kind: Objective,
    why: str,
    is_stopped: bool,
) -> Judgement:
    """From the scores on some of `documents`: what all of them would give."""
    full = [history.scores(trial) for trial in history.full]
    found = estimates(tasks, full, seen, documents)
    means = [each.value for each in found]
    return Judgement(
        values=history.values(means),
        means=means,
        stderr=combined_stderr(tasks, found, kind),
        violations=bounds.violations(seen),
        documents=count(seen, tasks),
        why=why,
        is_stopped=is_stopped,
    )


def of_none(tasks: Sequence[TaskMetric], history: History, why: str) -> Judgement:
    """Of a candidate that is not worth scoring: in every task as bad as the worst so far, in every constraint too."""
    scored = [history.scores(trial) for trial in history.full]
    means = [min((scores.number(task) for scores in scored), key=lambda mean: task.sign * mean) for task in tasks]
    broken: dict[str, float] = {}
    for violations in map(history.violations, history.full):
        broken |= {name: max(value, broken.get(name, value)) for name, value in violations.items()}
    return Judgement(history.values(means), means, math.nan, broken, 0, why, is_stopped=True)


def violations_of(bounds: Bounds, tasks: Sequence[TaskMetric], means: Sequence[float]) -> dict[str, float]:
    """How far scores that no document stands for are beyond each bound."""
    of_task = dict(zip(tasks, means, strict=True))
    return {bound.name: bound.sign * (of_task[bound.task] - bound.limit) for bound in bounds}


def combined_stderr(tasks: Sequence[TaskMetric], found: Sequence[Estimate], kind: Objective) -> float:
    """The standard error of the objective, the tasks' errors taken as independent; of the worst task for "worst"."""
    counted = [(task, each) for task, each in zip(tasks, found, strict=True) if task.weight > 0]
    if kind == "worst":
        return min(counted, key=lambda pair: pair[0].sign * pair[1].value)[1].stderr
    total = sum(task.weight for task, _ in counted)
    return math.hypot(*(task.weight / total * each.stderr for task, each in counted))


def sampling_error(tasks: Sequence[TaskMetric], scores: Scores, kind: Objective) -> float:
    """The objective's standard error where the documents are a sample of all there might be, by the jackknife."""
    found = []
    for task in tasks:
        values = pseudo_values(task, scores.values(task), scores.items(task))
        values = values[~np.isnan(values)]
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
        found.append(Estimate(scores.number(task), error))
    return combined_stderr(tasks, found, kind)


def count(scores: Scores, tasks: Sequence[TaskMetric]) -> int:
    """How many documents are scored on any of the metrics."""
    return len({(row.task, row.document) for task in tasks for row in scores.rows(task)})
