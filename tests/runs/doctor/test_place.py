"""What this machine lacks."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import pytest

from evomerge.runs.doctor.checks import place
from evomerge.search.storage import open_storage
from tests.runs.doctor.conftest import levels, look, subject


class Usage(NamedTuple):
    """As `shutil.disk_usage` gives it."""

    total: int
    used: int
    free: int


def test_this_machine_has_what_the_example_takes(tmp_path: Path) -> None:
    at = subject(folder=tmp_path / "run")
    for name in ("device", "memory", "disk", "folder", "database", "libraries", "workers", "hub"):
        assert levels(look(name, at)) == {"ok"}, name
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    from evomerge.errors import InputError

    with pytest.raises(InputError, match="device must be one that this machine has"):
        look("device", subject("runtime.device=cuda"))


def test_memory_that_does_not_do_is_an_error_and_disk_a_warning() -> None:
    from evomerge.errors import InputError

    with pytest.raises(InputError, match="must be at least"):
        look("memory", subject("runtime.memory_limit=10MB"))


def test_memory_counts_every_worker() -> None:
    assert "for 2 workers" in look("memory", subject("runtime.workers=2"))[0].text
    assert subject("runtime.workers=2").memory.host > subject().memory.host


@pytest.mark.parametrize(("free", "level"), [(1_000, "error"), (51_000_000, "warning"), (10**9, "ok")])
def test_disk_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    assert levels(look("disk", subject(folder=tmp_path / "run"))) == {level}


def test_a_folder_that_holds_a_run_or_anything_else_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    assert look("folder", subject(folder=tmp_path))[0].level == "warning"
    (tmp_path / "config.yaml").write_text("name: run")
    assert "evomerge resume" in look("folder", subject(folder=tmp_path))[0].advice


def test_a_missing_compiler_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert levels(look("compiler", subject())) == {"warning"}


def test_a_database_with_that_study_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    import optuna

    file = tmp_path / "study.db"
    setting = f"runtime.storage=sqlite:///{file}"
    assert levels(look("database", subject(setting))) == {"ok"}
    assert not file.exists()
    storage = open_storage(f"sqlite:///{file}")
    optuna.create_study(storage=storage, study_name="quickstart")
    (found,) = look("database", subject(setting))
    assert found.level == "warning"
    assert "'quickstart'" in found.text
    assert levels(look("database", subject(setting, "name=other"))) == {"ok"}


def test_a_database_that_does_not_answer_is_an_error_without_its_password() -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/search?connect_timeout=2"
    (found,) = look("database", subject(f"runtime.storage={url}"))
    assert found.level == "error"
    assert "secret" not in found.text
    (far,) = look("database", subject("runtime.storage=postgresql+psycopg://me@far.example/search"))
    assert far.level == "skipped"


def test_a_database_that_answers(postgres: str) -> None:
    assert levels(look("database", subject(f"runtime.storage={postgres}"))) <= {"ok", "warning"}


def test_more_workers_than_cores_are_warned_of() -> None:
    cores = len(os.sched_getaffinity(0))
    assert levels(look("workers", subject(f"runtime.workers={cores}"))) == {"ok"}
    assert levels(look("workers", subject(f"runtime.workers={cores + 1}"))) == {"warning"}
    assert "postgresql" in look("database", subject("runtime.workers=8"))[0].advice


def test_libraries_that_are_missing_or_too_old_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def held(name: str) -> str:
        if name == "wandb":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "torch" else version(name)

    monkeypatch.setattr(place, "version", held)
    monkeypatch.setattr(
        place, "requires", lambda name: ["torch>=2.9", "wandb>=0.19; extra == 'wandb'", "ray; extra == 'ray'"]
    )
    found = look("libraries", subject("runtime.trackers=[wandb]"))
    assert [finding.level for finding in found] == ["error", "error"]
    assert "torch must be >=" in found[0].text
    assert found[1].advice == "pip install 'evomerge[wandb]'"
