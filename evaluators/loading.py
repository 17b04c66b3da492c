"""Which lm-eval tasks a configuration means, loaded, and what is measured on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from lm_eval.api.group import Group
from lm_eval.api.task import Task

from evomerge.errors import InputError
from evomerge.evaluators.config import EvaluateConfig, TaskSpec
from evomerge.evaluators.entries import Entry, entries
from evomerge.evaluators.metrics import task_metric
from evomerge.evaluators.passages import passage_task
from evomerge.evaluators.quiet import reseed
from evomerge.evaluators.requests import scored_documents, set_fewshot
from evomerge.evaluators.taskfiles import Loaded, TaskFiles
from evomerge.evaluators.types import TaskMetric


class LoadedEntry(NamedTuple):
    """An entry of the configuration, its tasks by name, and what is measured on them."""

    spec: TaskSpec
    tasks: dict[str, Task]
    metrics: tuple[TaskMetric, ...]


def load_tasks(config: EvaluateConfig) -> list[LoadedEntry]:
    """Each task and constraint of the configuration with its tasks; entries of the same task share it.

    Raises:
        InputError: a task that does not load or cannot be scored, settings of one task that differ, two tasks of one
            name, or a constraint on several tasks.
    """
    files = TaskFiles(config.include_paths, unsafe=config.allow_unsafe_code)
    loaded: dict[str, Task] = {}
    homes: dict[str, object] = {}
    found = []
    for entry in entries(config):
        reseed(config.fewshot_seed)
        tasks, group = _load(entry.spec, files)
        for name, task in tasks.items():
            if name not in loaded:
                _require_scorable(name, task, config)
                set_fewshot(name, task, entry.spec.num_fewshot, config.fewshot_seed)
                loaded[name], homes[name] = task, entry.spec.perplexity
            _require_same(name, loaded[name], homes[name], entry.spec)
        tasks = {name: loaded[name] for name in tasks}
        found.append(LoadedEntry(entry.spec, tasks, _measured(entry, tasks, group, config.limit)))
    return found


def _load(spec: TaskSpec, files: TaskFiles) -> Loaded:
    if spec.perplexity is not None:
        return Loaded({spec.task: passage_task(spec.task, spec.perplexity)}, None)
    return files.load(spec.task)


def _require_scorable(name: str, task: Task, config: EvaluateConfig) -> None:
    if getattr(task, "UNSAFE_CODE", False) and not config.allow_unsafe_code:
        raise InputError(
            f"task {name!r} runs code that the model writes: allow_unsafe_code must be true for it, but is false"
        )
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"tasks must be text alone, but {name!r} has images or sounds")


def _require_same(name: str, task: Task, home: object, spec: TaskSpec) -> None:
    shots = task.get_config("num_fewshot")
    if spec.num_fewshot not in {None, shots}:
        raise InputError(
            f"num_fewshot must be the same wherever task {name!r} is named, but got {shots} and {spec.num_fewshot}"
        )
    if spec.perplexity != home:
        raise InputError(
            f"a task's name must stand for one task, but {name!r} stands for two; give one of them another `task`"
        )


def _measured(
    entry: Entry, tasks: Mapping[str, Task], group: Group | None, limit: int | None
) -> tuple[TaskMetric, ...]:
    """The entry's metrics, its weight split over its tasks: a group's as lm-eval weighs it, a tag's evenly."""
    if entry.for_constraint and list(tasks) != [entry.spec.task]:
        raise InputError(
            f"a constraint must be on a single task, but {entry.spec.task!r} stands for {', '.join(tasks)}"
        )
    metrics = [task_metric(name, task, entry.spec, entry.weight / len(tasks)) for name, task in tasks.items()]
    if group is None or not _by_size(group, metrics[0]):
        return tuple(metrics)
    counts = [len(scored_documents(name, task)) for name, task in tasks.items()]
    sizes = [count if limit is None else min(count, limit) for count in counts]
    return tuple(
        replace(metric, weight=entry.weight * size / sum(sizes)) for metric, size in zip(metrics, sizes, strict=True)
    )


def _by_size(group: Group, metric: TaskMetric) -> bool:
    """Whether the group's own number for the metric weighs its tasks by their documents; without one it does not."""
    for own in group.aggregate_metric_list or ():
        if own.metric == metric.metric and (own.filter_list is None or metric.filter in own.filter_list):
            return bool(own.weight_by_size)
    return False


def task_metrics(found: Iterable[LoadedEntry]) -> tuple[TaskMetric, ...]:
    """What is measured, in order, and for constraints only what is not measured already.

    A constraint that names no metric is about the one that its task is scored by.

    Raises:
        InputError: two tasks of the configuration are the same task and metric.
    """
    metrics: dict[tuple[str, str], TaskMetric] = {}
    for spec, _, measured in found:
        for metric in measured:
            place = (metric.task, metric.label)
            if metric.weight > 0 and place in metrics:
                raise InputError(
                    f"a task and metric must be named once, but {metric.task!r} with {metric.label} is twice"
                )
            if metric.weight > 0 or spec.metric is not None or metric.task not in {task for task, _ in metrics}:
                metrics.setdefault(place, metric)
    return tuple(metrics.values())


def unique(found: Iterable[LoadedEntry]) -> dict[str, Task]:
    """All tasks by name."""
    return {name: task for entry in found for name, task in entry.tasks.items()}
