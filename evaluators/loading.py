"""Which lm-eval tasks a configuration means, loaded, and what is measured on them."""

from __future__ import annotations

from collections.abc import Iterable

from lm_eval.api.task import Task

from evomerge.errors import InputError
from evomerge.evaluators.config import EvaluateConfig, TaskSpec
from evomerge.evaluators.metrics import task_metric
from evomerge.evaluators.quiet import reseed
from evomerge.evaluators.requests import set_fewshot
from evomerge.evaluators.taskfiles import TaskFiles
from evomerge.evaluators.types import TaskMetric


def load_tasks(config: EvaluateConfig) -> list[tuple[TaskSpec, dict[str, Task]]]:
    """Each entry of the configuration with its tasks; entries of the same task share it."""
    files = TaskFiles(config.include_paths)
    loaded: dict[str, Task] = {}
    specs = []
    for spec in config.tasks:
        reseed(config.fewshot_seed)
        names = files.load(spec.task)
        for name, task in names.items():
            if name not in loaded:
                _require_scorable(name, task, config)
                set_fewshot(name, task, spec.num_fewshot, config.fewshot_seed)
                loaded[name] = task
            elif spec.num_fewshot not in {None, loaded[name].get_config("num_fewshot")}:
                raise InputError(
                    f"num_fewshot must be the same wherever task {name!r} is named, but got "
                    f"{loaded[name].get_config('num_fewshot')} and {spec.num_fewshot}"
                )
        specs.append((spec, {name: loaded[name] for name in names}))
    return specs


def _require_scorable(name: str, task: Task, config: EvaluateConfig) -> None:
    if getattr(task, "UNSAFE_CODE", False) and not config.allow_unsafe_code:
        raise InputError(
            f"task {name!r} runs code that the model writes: allow_unsafe_code must be true for it, but is false"
        )
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"tasks must be text alone, but {name!r} has images or sounds")


def task_metrics(specs: Iterable[tuple[TaskSpec, dict[str, Task]]]) -> tuple[TaskMetric, ...]:
    """What is measured, in order. Raises InputError where a task and metric are named twice."""
    metrics = [
        task_metric(name, task, spec, spec.weight / len(tasks)) for spec, tasks in specs for name, task in tasks.items()
    ]
    seen: set[tuple[str, str]] = set()
    for metric in metrics:
        if (metric.task, metric.label) in seen:
            raise InputError(f"a task and metric must be named once, but {metric.task!r} with {metric.label} is twice")
        seen.add((metric.task, metric.label))
    return tuple(metrics)


def unique(specs: Iterable[tuple[TaskSpec, dict[str, Task]]]) -> dict[str, Task]:
    """All tasks by name."""
    return {name: task for _, tasks in specs for name, task in tasks.items()}
