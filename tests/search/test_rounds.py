"""Launches, and the attributes of a study that several workers write."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from evomerge.search import attributes
from evomerge.search.lease import Lease, LostLeaseError
from evomerge.search.rounds import close_round, current_round, end_round, is_over, open_round, why_closed
from evomerge.search.stopping import STOPPED
from evomerge.search.workers import Workers
from tests.search.toy import ToyRun


@pytest.fixture
def toy(tmp_path: Path) -> ToyRun:
    return ToyRun(tmp_path)


def in_threads(count: int, do: Any) -> list[Any]:
    """What each thread got; all begin at the same time."""
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def one(place: int) -> None:
        barrier.wait()
        results.append(do(place))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_workers_that_set_an_attribute_once_one_does(toy: ToyRun, tmp_path: Path) -> None:
    others = [ToyRun(tmp_path) for _ in range(4)]
    took = in_threads(4, lambda place: (attributes.set_once(others[place].study, "key", place), place))
    (winner,) = [place for did, place in took if did]
    assert toy.study.user_attrs["key"] == winner
    assert not attributes.set_once(toy.study, "key", 9)


def test_a_swap_takes_effect_only_where_nobody_was_quicker(toy: ToyRun) -> None:
    assert attributes.swap(toy.study, "key", None, {"a": 1.5})
    assert not attributes.swap(toy.study, "key", None, 2)
    assert attributes.swap(toy.study, "key", {"a": 1.5}, 2)
    assert not attributes.swap(toy.study, "key", {"a": 1.5}, 3)
    assert toy.study.user_attrs["key"] == 2


def test_a_launch_forgets_why_the_one_before_was_stopped_and_counts_on(toy: ToyRun) -> None:
    assert current_round(toy.study) is None
    first = open_round(toy.study, 10)
    assert close_round(toy.study, "the timeout is over")
    assert not close_round(toy.study, "somebody else says so, too")
    assert why_closed(toy.study) == "the timeout is over"
    toy.study.set_user_attr(STOPPED, "no more to find")
    second = open_round(toy.study, 20)
    assert (first, second) == ((1, 10), (2, 20))
    assert current_round(toy.study) == second
    assert why_closed(toy.study) == ""
    assert STOPPED not in toy.study.user_attrs


def test_a_result_is_kept_by_whoever_holds_the_lease_and_is_of_one_round(toy: ToyRun) -> None:
    first = open_round(toy.study, 10)
    workers = Workers(toy.storage.engine, "toy")
    lease = Lease(toy.storage.engine, "toy", "finishing", workers)
    with pytest.raises(LostLeaseError):
        end_round(toy.study, first, {"winner": 1}, lease)
    assert not is_over(toy.study, first)
    with lease.held():
        end_round(toy.study, first, {"winner": 1}, lease)
    assert is_over(toy.study, first)
    assert not is_over(toy.study, open_round(toy.study, 10))
