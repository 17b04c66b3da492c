"""Files in memory that processes have in common, and what is left when these die, stop or come at the same time."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine import sharing
from evomerge.engine.sharing import Sharing, sweep

_FORK = multiprocessing.get_context("fork")
SIZE = 10_000


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /dev/shm."""
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setattr(sharing, "MEMORY", place)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "folder"


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Starts processes, and ends them."""
    started = []

    def one(work: Callable[..., None], *arguments: Any) -> Any:
        process = _FORK.Process(target=work, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process

    yield one
    for process in started:
        process.kill()
        process.join()


def sevens(contents: np.ndarray, alive: Callable[[], None]) -> dict[str, Any]:
    contents[:] = 7
    return {"sum": int(contents.sum())}


def hold(folder: Path, key: str = "key", name: str = "name", fill: Any = sevens, size: int = SIZE) -> Any:
    return Sharing(folder, key).hold(name, size, fill)


def never(contents: np.ndarray, alive: Callable[[], None]) -> dict[str, Any]:
    raise AssertionError("it is there already")


def files(*places: Path) -> list[Path]:
    return [path for place in places if place.exists() for path in place.iterdir()]


def is_true(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def test_the_first_fills_and_others_map(folder, memory):
    one, two = hold(folder), hold(folder, fill=never)
    assert (two.contents == 7).all()
    assert len(two.contents) == SIZE
    assert two.told == {"sum": 7 * SIZE}
    assert [path.parent for path in files(memory, folder)] == [memory]
    del one
    assert files(memory)
    del two
    assert not files(memory, folder)  # the last one has gone


def test_files_are_for_their_user_alone_and_cannot_be_written_through_the_mapping(folder, memory, start):
    held = hold(folder)
    assert [path.stat().st_mode & 0o777 for path in files(memory)] == [0o600]
    with pytest.raises(ValueError, match="read-only"):
        held.contents[0] = 1

    def write() -> None:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.memset(held.contents.ctypes.data, 1, 1)

    process = start(write)
    process.join()
    assert process.exitcode == -signal.SIGSEGV
    assert (held.contents == 7).all()


@pytest.mark.parametrize("other", [{"key": "another"}, {"name": "another"}, {"size": SIZE + 1}])
def test_other_contents_are_never_taken(folder, other):
    held = hold(folder)
    found = hold(folder, fill=lambda contents, alive: {"mine": contents[:].fill(9)}, **other)
    assert (found.contents == 9).all()
    assert (held.contents == 7).all()


def test_of_processes_that_come_at_once_one_fills(folder, tmp_path, start):
    together, seen = _FORK.Barrier(4), tmp_path / "seen"

    def fill(contents: np.ndarray, alive: Callable[[], None]) -> dict[str, Any]:
        with seen.open("a") as file:
            file.write("filled\n")
        time.sleep(0.1)
        return sevens(contents, alive)

    def work() -> None:
        together.wait()
        held = hold(folder, fill=fill)
        together.wait()
        assert (held.contents == 7).all()

    processes = [start(work) for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert seen.read_text() == "filled\n"


def half(folder: Path, mark: Path) -> None:
    """Fill one half, then wait to be killed or stopped; then the other half."""

    def fill(contents: np.ndarray, alive: Callable[[], None]) -> dict[str, Any]:
        contents[: SIZE // 2] = 1
        mark.touch()
        is_true(lambda: not mark.exists())
        contents[:] = 1
        return {}

    held = hold(folder, fill=fill)
    assert len(set(held.contents.tolist())) == 1
    mark.touch()


def test_nobody_sees_what_a_killed_process_has_filled_by_half(folder, memory, tmp_path, start):
    process = start(half, folder, tmp_path / "mark")
    assert is_true((tmp_path / "mark").exists)
    process.kill()
    process.join()
    assert files(memory)
    held = hold(folder)
    assert (held.contents == 7).all()
    assert len(files(memory)) == 1


def test_who_waits_for_a_killed_process_fills_in_its_place(folder, tmp_path, start):
    process = start(half, folder, tmp_path / "mark")
    assert is_true((tmp_path / "mark").exists)
    done = tmp_path / "done"

    def wait() -> None:
        if (hold(folder).contents == 7).all():
            done.touch()

    waiting = start(wait)
    time.sleep(0.05)
    assert not done.exists()
    process.kill()
    waiting.join()
    assert done.exists()


def test_a_stopped_process_is_not_waited_for_and_may_go_on_later(folder, memory, tmp_path, start, monkeypatch):
    monkeypatch.setattr(sharing, "STALLED", 0.2)
    mark, told = tmp_path / "mark", []
    process = start(half, folder, mark)
    assert is_true(mark.exists)
    os.kill(process.pid, signal.SIGSTOP)
    held = Sharing(folder, "key", told.append).hold("name", SIZE, sevens)
    assert told == ["the process that reads the models has stopped; reading them here"]
    assert (held.contents == 7).all()
    mark.unlink()
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0
    assert (held.contents == 7).all()
    assert hold(folder, fill=never) is not None


def test_a_sign_of_life_makes_others_wait(folder, tmp_path, start, monkeypatch):
    monkeypatch.setattr(sharing, "STALLED", 0.3)
    mark = tmp_path / "mark"

    def slow(contents: np.ndarray, alive: Callable[[], None]) -> dict[str, Any]:
        mark.touch()
        for _ in range(10):
            time.sleep(0.1)
            alive()
        return sevens(contents, alive)

    def work() -> None:
        held = hold(folder, fill=slow)
        is_true(lambda: not mark.exists())
        del held

    process = start(work)
    assert is_true(mark.exists)
    assert (hold(folder, fill=never).contents == 7).all()
    mark.unlink()
    process.join()
    assert process.exitcode == 0


def test_what_killed_processes_leave_the_next_start_removes_and_nothing_in_use(folder, memory, tmp_path, start):
    mark = tmp_path / "mark"

    def keep() -> None:
        held = hold(folder, name="killed")
        mark.touch()
        time.sleep(60)
        del held

    process = start(keep)
    assert is_true(mark.exists)
    held = hold(folder, name="used")
    sweep(folder)
    assert len(files(memory)) == 2
    process.kill()
    process.join()
    assert len(files(memory)) == 2
    sweep(folder)
    assert len(files(memory)) == 1
    assert (hold(folder, name="used", fill=never).contents == 7).all()
    (memory / "evomerge-other").touch()
    (memory / f"evomerge-{os.geteuid() + 1}-of-another-user").touch()
    sweep(folder)
    assert len(files(memory)) == 3
    del held


def test_files_of_other_hosts_in_the_folder_are_left_alone(folder, memory, monkeypatch):
    monkeypatch.setattr(sharing, "_free", lambda place: 0 if place == memory else 2**40)
    held = hold(folder)
    (path,) = files(folder)
    path.rename(folder / "set aside")
    del held
    (folder / "set aside").rename(path)
    with monkeypatch.context() as patch:
        patch.setattr(sharing.platform, "node", lambda: "another host")
        sweep(folder)
        assert path.exists()
    sweep(folder)
    assert not path.exists()


def test_a_fork_that_ends_leaves_the_file_to_its_parent(folder, memory, start):
    held = hold(folder)

    def work() -> None:
        nonlocal held
        assert (held.contents == 7).all()
        del held

    process = start(work)
    process.join()
    assert process.exitcode == 0
    assert len(files(memory)) == 1
    sweep(folder)
    assert hold(folder, fill=never) is not None


def test_what_fails_while_it_fills_is_raised_and_leaves_nothing(folder, memory):
    def fail(contents: np.ndarray, alive: Callable[[], None]) -> dict[str, Any]:
        raise ValueError("no such weight")

    with pytest.raises(ValueError, match="no such weight"):
        hold(folder, fill=fail)
    assert not files(memory, folder)
    assert hold(folder) is not None


def test_without_room_in_memory_the_folder_is_taken_and_without_any_the_user_is_told(folder, memory, monkeypatch):
    monkeypatch.setattr(sharing, "_free", lambda place: 0 if place == memory else 2**40)
    held = hold(folder)
    assert [path.parent for path in files(memory, folder)] == [folder]
    assert (hold(folder, fill=never).contents == 7).all()
    del held
    assert not files(memory, folder)
    monkeypatch.setattr(sharing, "_free", lambda place: 0)
    told: list[str] = []
    alone = Sharing(folder, "key", told.append)
    assert alone.hold("one", SIZE, never) is None
    assert alone.hold("two", SIZE, never) is None
    assert not alone.has_room(SIZE)
    assert len(told) == 2
    assert told[0].startswith(f"memory is not shared between processes ({memory}: 0 B free, 10 KB needed; {folder}: ")


def test_a_disk_that_turns_out_full_leaves_nothing(folder, memory, monkeypatch):
    def full(descriptor: int, offset: int, size: int) -> None:
        os.ftruncate(descriptor, size // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert hold(folder) is None
    assert not files(memory, folder)


def test_files_that_others_have_put_there_are_not_used(folder, memory, tmp_path):
    held = hold(folder)
    (path,) = files(memory)
    del held
    path.write_bytes(b"x")
    path.chmod(0o666)
    held = hold(folder)
    assert (held.contents == 7).all()
    assert path.read_bytes() == b"x"
    assert [other.parent for other in files(folder)] == [folder]
    del held
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert (hold(folder).contents == 7).all()
    assert not (tmp_path / "elsewhere").exists()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=sharing.DATA + 40), st.booleans())
def test_whatever_lies_where_the_file_should_be_is_filled_anew(tmp_path_factory, junk, ours):
    place = tmp_path_factory.mktemp("junk")
    sharing.MEMORY = place
    held = hold(place / "folder", size=20)
    (path,) = files(place)
    whole = path.read_bytes()
    del held
    path.write_bytes((whole[: len(junk)] if ours else b"") + junk)
    path.chmod(0o600)
    shared = Sharing(place / "folder", "key")
    assert not path.exists()  # nobody held it
    path.write_bytes((whole[: len(junk)] if ours else b"") + junk)
    path.chmod(0o600)
    assert (shared.hold("name", 20, sevens).contents == 7).all()
