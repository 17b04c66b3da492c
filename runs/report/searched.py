"""What was searched: models, space, method, tasks, documents, sampler, seed, versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evomerge.engine.recipe import ModelRef
from evomerge.evaluators.types import SPLITS
from evomerge.runs.report.blocks import Folded, Section, Table
from evomerge.runs.report.drawing import NONE, count
from evomerge.runs.report.facts import Facts
from evomerge.search.study import FINGERPRINT, SAMPLER

PACKAGES = ("evomerge", "torch", "transformers", "lm_eval", "optuna", "safetensors")


def searched(facts: Facts) -> Section:
    """The section on what the search was given."""
    config = facts.config
    tasks = [_task(facts, place) for place in range(len(facts.tasks))]
    rows = [
        ("method", " or ".join(config.merge.method)),
        ("numbers searched", _numbers(facts)),
        ("space", _settings(config.space.model_dump(mode="json"))),
        ("options", _settings(config.merge.options) or "none"),
        ("objective", config.evaluate.objective),
        ("splits", ", ".join(f"{name} {getattr(config.evaluate.splits, name):g}" for name in SPLITS)),
        ("sampler", str(facts.kept.get(SAMPLER, config.search.sampler))),
        ("trials", f"{facts.told['trials']['total']:,}"),
        ("warm starts", ", ".join(config.search.warm_start) or "none"),
        ("seed", str(config.search.seed)),
        ("precision", config.merge.dtype),
        ("vocabulary", config.merge.tokenizer),
        ("versions", ", ".join(f"{name} {found}" for name, found in _versions())),
    ]
    head = ["task", "metric", "weight", *[f"documents in {split}" for split in SPLITS]]
    return Section(
        "searched",
        "What was searched",
        [
            _models(facts),
            Table(["setting", "value"], rows, "Settings.", texts=[1]),
            Folded(count(len(tasks), "task"), [Table(head, tasks, "Tasks, and what is known of their documents.")]),
        ],
    )


def _models(facts: Facts) -> Table | Folded:
    models = facts.config.models
    prints = facts.kept.get(FINGERPRINT, {})
    rows = [_model("base", models.base, prints.get("models.base"))]
    rows += [_model("expert", each, prints.get(f"models.experts {each.name}")) for each in models.experts]
    table = Table(["model", "role", "source", "weights (SHA-256)"], rows, "Models.", texts=[1, 2, 3])
    return table if len(rows) <= 10 else Folded(f"{len(rows) - 1} experts and their base", [table])


def _model(role: str, model: ModelRef, digest: str | None) -> list[str]:
    source = model.model + (f"@{model.revision}" if model.revision else "")
    source += f" + {model.adapter}" if model.adapter else ""
    return [model.name, role, source, digest[:16] if digest else "unknown"]


def _task(facts: Facts, place: int) -> list[str]:
    task = facts.tasks[place]
    direction = "" if task.higher_is_better else ", lower is better"
    sizes = facts.split_sizes.get(task.task, {})
    documents = [f"{sizes[split]:,}" if split in sizes else NONE for split in SPLITS]
    return [facts.titles[place], f"{task.label}{direction}", f"{task.weight:g}", *documents]


def _numbers(facts: Facts) -> str:
    sizes = {len(trial.params) for trial in facts.trials if trial.params}
    return "unknown" if not sizes else f"{max(sizes):,}" if len(sizes) == 1 else f"{min(sizes):,} to {max(sizes):,}"


def _settings(settings: dict[str, Any]) -> str:
    return "; ".join(f"{key} {_plain(value)}" for key, value in settings.items() if value not in (None, [], {}))


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def _versions() -> list[tuple[str, str]]:
    """Of what is installed where the report is written."""
    found = [("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
