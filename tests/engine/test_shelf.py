"""Arrays that processes put on a shelf for each other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evomerge.engine import sharing, shelf
from evomerge.engine.sharing import Sharing
from evomerge.engine.shelf import Shelf, open_shelf

_FORK = multiprocessing.get_context("fork")
DTYPES = st.sampled_from([np.float64, np.float32, np.int32, np.int64, np.bool_])
ARRAYS = st.lists(
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)), max_size=3
)


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MEMORY", tmp_path / "memory")
    (tmp_path / "memory").mkdir()


def opened(tmp_path: Path) -> Shelf:
    found = open_shelf(Sharing(tmp_path / "folder", "key"), "shelf")
    assert found is not None
    return found


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), ARRAYS, max_size=8))
def test_what_one_puts_another_gets(tmp_path_factory, contents):
    sharing.MEMORY = tmp_path_factory.mktemp("memory")
    one, two = opened(sharing.MEMORY), opened(sharing.MEMORY)
    for name, own in contents.items():
        assert two.get(name) is None
        one.put(name, own)
        found = two.get(name)
        assert found is not None
        for array, want in zip(found, own, strict=True):
            assert array.dtype == want.dtype
            assert array.shape == want.shape
            assert array.tobytes() == want.tobytes()
            assert not array.flags.writeable


def test_the_first_counts(tmp_path):
    one, two = opened(tmp_path), opened(tmp_path)
    one.put("a", [np.zeros(3)])
    (found,) = two.put("a", [np.ones(3)]) or ()
    assert not found.any()


def test_a_record_that_was_not_ended_is_written_over(tmp_path, monkeypatch):
    one, two = opened(tmp_path), opened(tmp_path)
    real, calls = shelf.write, []

    def write(descriptor: int, data: bytes, offset: int) -> None:
        calls.append(offset)
        if len(calls) == 3:  # the end of the shelf
            raise OSError("killed")
        real(descriptor, data, offset)

    monkeypatch.setattr(shelf, "write", write)
    assert one.put("a", [np.ones(3)]) is None
    assert two.get("a") is None
    two.put("b", [np.zeros(5)])
    (found,) = one.get("b") or ()
    assert not found.any()
    assert len(found) == 5
    assert one.get("a") is None


def test_a_full_shelf_takes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "CAPACITY", 4096)
    one = opened(tmp_path)
    assert one.put("a", [np.zeros(100)]) is not None
    assert one.put("b", [np.zeros(1000)]) is None
    assert one.put("c", [np.zeros(1)]) is not None


def test_processes_that_write_at_once_and_are_killed_spoil_nothing(tmp_path):
    """Whatever is found is whole: an array is as long as its name says and holds one number."""
    keeper = opened(tmp_path)

    def work(own: int) -> None:
        mine, random = opened(tmp_path), np.random.default_rng(own)
        while True:
            length = int(random.integers(1, 3000))
            (found,) = mine.put(str(length), [np.full(length, own)]) or [np.full(length, own)]
            assert len(found) == length
            assert len(set(found.tolist())) == 1

    workers = [_FORK.Process(target=work, args=(own,), daemon=True) for own in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        time.sleep(0.15)
        worker.kill()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
    found = [length for length in range(1, 3000) if keeper.get(str(length)) is not None]
    assert len(found) > 20
    for length in found:
        (array,) = keeper.get(str(length)) or ()
        assert len(array) == length
        assert len(set(array.tolist())) == 1
    assert keeper.put("after", [np.zeros(1)]) is not None


def test_nobody_waits_for_a_stopped_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "PATIENCE", 0.05)
    mark = tmp_path / "mark"

    def work() -> None:
        mine = opened(tmp_path)
        with mine._sole():
            mark.touch()
            time.sleep(60)

    process = _FORK.Process(target=work, daemon=True)
    process.start()
    while not mark.exists():
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGSTOP)
    mine = opened(tmp_path)
    assert mine.put("a", [np.zeros(1)]) is None
    process.kill()
    process.join()
    assert mine.put("a", [np.zeros(1)]) is not None
