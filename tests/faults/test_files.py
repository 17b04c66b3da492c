"""A run's folder on a disk that is full, and one that was damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from evomerge.engine.export import save_contents
from evomerge.engine.writer import TensorSpec
from evomerge.errors import EvomergeError, InputError
from evomerge.evaluators import TaskMetric
from evomerge.runs.events import EventFile, read_events
from evomerge.runs.files import write_text
from evomerge.runs.remnants import is_remnant
from evomerge.runs.run import create_run, open_run
from evomerge.search.config import load_config
from tests.runs.conftest import CONFIG

_FORK = multiprocessing.get_context("fork")


def with_files_of_at_most(size: int, act: Callable[[], None]) -> int | None:
    """Act in a process whose writes beyond `size` bytes of a file fail, as on a full disk; its exit code."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        act()

    process = _FORK.Process(target=limited)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_line_torn_by_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventFile(path)
    events.note("before")
    size = path.stat().st_size

    def tear() -> None:
        with pytest.raises(EvomergeError, match="a run's files must be writable"):
            events.note("torn")

    assert with_files_of_at_most(size + 20, tear) == 0
    assert path.stat().st_size == size + 20
    events.note("after")
    assert [event["text"] for event in read_events(path)] == ["before", "after"]


def test_a_device_without_room_is_told_in_one_line() -> None:
    with pytest.raises(EvomergeError, match="/dev/full: No space left on device; what is scored is kept") as told:
        EventFile(Path("/dev/full")).note("lost")
    assert "\n" not in str(told.value)


def test_a_file_that_cannot_be_replaced_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_text(path, "old")

    def replace() -> None:
        with pytest.raises(EvomergeError, match="a run's files must be writable"):
            write_text(path, "new" * 100)

    assert with_files_of_at_most(10, replace) == 0
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_what_a_kill_tears_off_a_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventFile(path)
    events.note("a passw\u00f6rd in postgresql://me:secret@host/db")
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        events.note("after")
        texts = [event["text"] for event in read_events(path)]
        assert texts[-1] == "after"
        assert len(texts) == 1 or end == len(whole) - 1
    assert b"secret" not in whole
    assert read_events(tmp_path / "none.jsonl") == []


def damaged(change: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    return lambda folder, other: change(folder)


DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no config.yaml": (damaged(lambda f: (f / "config.yaml").unlink()), "must be a folder with config.yaml"),
    "a torn config.yaml": (
        damaged(lambda f: (f / "config.yaml").write_bytes((f / "config.yaml").read_bytes()[:90])),
        "config.yaml",
    ),
    "a binary config.yaml": (damaged(lambda f: (f / "config.yaml").write_bytes(bytes(range(256)))), "YAML"),
    "no study.db": (damaged(lambda f: (f / "study.db").unlink()), "must have its study.db"),
    "an empty study.db": (damaged(lambda f: (f / "study.db").write_bytes(b"")), "must hold the study"),
    "a binary study.db": (damaged(lambda f: (f / "study.db").write_bytes(b"\xff" * 9000)), "no SQLite database"),
    "half a study.db": (
        damaged(lambda f: (f / "study.db").write_bytes((f / "study.db").read_bytes()[:9000])),
        "its file is damaged",
    ),
    "another run's config.yaml": (
        lambda f, other: shutil.copy(other / "config.yaml", f),
        "the study must be one of quickstart, but got 'other'",
    ),
    "another run's study.db": (
        lambda f, other: shutil.copy(other / "study.db", f),
        "the study must be one of other, but got 'quickstart'",
    ),
    "a changed config.yaml": (
        damaged(lambda f: write_text(f / "config.yaml", (f / "config.yaml").read_text().replace("seed: 0", "seed: 1"))),
        "search.seed was 0 and is 1",
    ),
}


def new_run(folder: Path, name: str = "quickstart") -> Path:
    run = create_run(load_config(CONFIG, [f"name={name}"]), folder, [TaskMetric("a", "acc")])
    with run.storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    run.storage.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that have no trials yet, `run` and `other`."""
    folder = tmp_path_factory.mktemp("runs")
    new_run(folder / "run")
    new_run(folder / "other", "other")
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(name: str, runs: Path, tmp_path: Path) -> None:
    change, hint = DAMAGES[name]
    folder = shutil.copytree(runs / "run", tmp_path / "run")
    change(folder, runs / "other")
    with pytest.raises(InputError, match=hint) as refused:
        open_run(folder)
    assert "\n" not in str(refused.value)


def test_files_of_others_in_a_run_s_folder_do_no_harm(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "run", tmp_path / "run")
    (folder / "notes.txt").write_text("mine")
    (folder / "events.jsonl").write_text('{"time": 1, "event": "trial", "numb')
    run = open_run(folder)
    run.events.note("whole")
    assert [event["event"] for event in read_events(folder / "events.jsonl")] == ["note"]


def test_what_a_killed_launch_leaves_is_no_run_and_a_run_is_no_remnant(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "run", tmp_path / "run")
    assert not is_remnant(folder)
    open_run(folder).storage.engine.dispose()
    (folder / "config.yaml").rename(folder / ".config.yaml.123.tmp")
    assert is_remnant(folder)
    (folder / ".config.yaml.123.tmp").rename(folder / "config.yaml")
    open_run(folder).study.ask()
    (folder / "config.yaml").unlink()
    assert not is_remnant(folder)  # it has a trial


def test_an_export_to_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from evomerge.engine.export import Contents

    specs = (TensorSpec("model.norm.weight", torch.float32, (4096,)),)
    contents = Contents(LlamaConfig(), None, None, specs, lambda name: iter([torch.zeros(4096)]))

    def export() -> None:
        with pytest.raises(InputError, match="an export must go where files can be written"):
            save_contents(contents, tmp_path / "model")

    assert with_files_of_at_most(10_000, export) == 0
    assert os.listdir(tmp_path) == []
    save_contents(contents, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"
