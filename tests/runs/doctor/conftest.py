"""Checks called one by one on the embedded example, with models and tasks changed in a folder of the test's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.runs.doctor.check import CHECKS
from evomerge.runs.doctor.findings import Finding
from evomerge.runs.doctor.subject import Subject
from evomerge.search.config import SearchConfig, load_config
from tests.runs.conftest import CONFIG, EXAMPLE

Copied = Callable[..., Path]
Written = Callable[..., str]


def configured(*settings: str) -> SearchConfig:
    """The example's configuration with some keys replaced."""
    return load_config(CONFIG, list(settings))


def subject(*settings: str, offline: bool = True, folder: Path | None = None) -> Subject:
    """What the checks look at, with some keys replaced."""
    return Subject(configured(*settings), offline=offline, folder=folder)


def look(name: str, at: Subject) -> list[Finding]:
    """What one check finds."""
    return list(CHECKS.get(name).look(at))


def levels(found: Sequence[Finding]) -> set[str]:
    """The levels of findings."""
    return {finding.level for finding in found}


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    """Copy a model of the example and change its configuration; gives the copy's folder."""

    def copy(name: str, to: str, settings: Mapping[str, Any] | None = None) -> Path:
        folder = tmp_path / to
        shutil.copytree(EXAMPLE / "models" / name, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **(settings or {})}))
        return folder

    return copy


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Write a task of generated answers; gives the setting that names its folder."""

    def write(name: str, documents: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["."], "do_sample": False, "max_gen_toks": 4},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            **settings,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
        return f"evaluate.include_path={folder}"

    return write
