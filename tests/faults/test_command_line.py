"""The real command line, killed while it creates a run, compares, and exports; and on a disk without room."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evomerge.runs.events import read_events
from evomerge.runs.run import open_run
from tests.faults.lives import record_of
from tests.runs.conftest import CONFIG, SMALL, start_process

pytestmark = pytest.mark.exhaustive


def is_being_created(folder: Path) -> bool:
    return (folder / "study.db").exists()


def is_created(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def is_in(stage: str) -> Callable[[Path], bool]:
    def looks_so(folder: Path) -> bool:
        return any(event.get("name") == stage for event in read_events(folder / "events.jsonl"))

    return looks_so


def has_its_result(folder: Path) -> bool:
    return (folder / "best" / "recipe.yaml").exists()


MOMENTS = {
    "creation": is_being_created,
    "created": is_created,
    "trials": is_in("search"),
    "finalists": is_in("select"),
    "comparison": is_in("report"),
    "result": has_its_result,
}


def kill_when(process: subprocess.Popen[str], is_so: Callable[[], bool], seconds: float = 300) -> int:
    """Kill a process as soon as something is so; its exit code."""
    end = time.monotonic() + seconds
    while process.poll() is None and not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_was_killed_goes_on(moment: str, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL)
    assert kill_when(process, lambda: MOMENTS[moment](folder)) == -signal.SIGKILL
    again = ["resume", folder] if is_created(folder) else ["run", CONFIG, "--out", folder, *SMALL]
    process = start_process(*again, "--json")
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    assert json.loads(out)["comparison"] == open_run(finished).result
    assert record_of(folder) == record_of(finished)


@pytest.mark.parametrize("look", ["a draft", "a file in it", "the folder"])
def test_an_export_that_was_killed_is_whole_or_absent(look: str, finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "model"

    def is_so() -> bool:
        drafts = list(tmp_path.glob(".model*"))
        found = {"a draft": drafts, "a file in it": [f for d in drafts for f in d.iterdir()], "the folder": [to]}
        return any(path.exists() for path in found[look])

    kill_when(start_process("export", finished, "--to", to), is_so)
    if to.exists():
        assert {"config.json", "model.safetensors", "README.md", "evomerge.json"} <= set(os.listdir(to))
        shutil.rmtree(to)
    process = start_process("export", finished, "--to", to)
    assert process.wait(300) == 0
    assert (to / "model.safetensors").is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 900 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_without_room_ends_a_run_in_one_line_and_with_more_it_goes_on(finished: Path, small_disk: Path) -> None:
    folder = small_disk / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL)
    while process.poll() is None and not is_in("search")(folder):
        time.sleep(0.01)
    with (small_disk / "filler").open("wb") as filler:  # other people's files
        filler.write(bytes(max(shutil.disk_usage(small_disk).free - 50_000, 0)))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "resume goes on" in error.splitlines()[-1]
    assert "Traceback" not in error
    before = record_of(folder)
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    resumed = start_process("resume", folder, "--json")
    out, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, error
    assert json.loads(out)["comparison"] == open_run(finished).result
    assert before.rows <= record_of(folder).rows == record_of(finished).rows
