"""The front holds what nothing beats, and keeps it under every change that orders nothing anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from optuna.study._multi_objective import _is_pareto_front

from evomerge.search.pareto import crowding, dominates, front, spread

POINTS = st.tuples(st.integers(1, 20), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=st.integers(-3, 3).map(float))
)


@given(POINTS)
def test_no_member_is_dominated_and_everything_else_is_by_a_member(points: np.ndarray) -> None:
    members = front(points)
    for place, point in enumerate(points):
        beaten_by = [other for other in members if dominates(points[other], point)]
        assert bool(beaten_by) == (place not in members)


@given(POINTS)
def test_it_is_optuna_s_front(points: np.ndarray) -> None:
    theirs = _is_pareto_front(-points, assume_unique_lexsorted=False)
    assert front(points).tolist() == np.flatnonzero(theirs).tolist()


@given(POINTS)
def test_order_scale_and_copies_do_not_matter(points: np.ndarray) -> None:
    order = np.random.default_rng(len(points)).permutation(len(points))
    members = {tuple(point) for point in points[front(points)]}
    assert {tuple(point) for point in points[order][front(points[order])]} == members
    assert front(points * 3.0 - 7.0).tolist() == front(points).tolist()
    doubled = front(np.concatenate([points, points])).tolist()
    assert doubled == [*front(points), *(front(points) + len(points))]


def test_of_one_objective_it_is_the_highest() -> None:
    assert front(np.array([[1.0], [3.0], [2.0], [3.0]])).tolist() == [1, 3]


def test_no_points_have_no_front() -> None:
    assert front(np.zeros((0, 2))).tolist() == []


def test_equals_do_not_dominate_each_other() -> None:
    assert not dominates([1.0, 2.0], [1.0, 2.0])
    assert dominates([1.0, 3.0], [1.0, 2.0])
    assert not dominates([2.0, 1.0], [1.0, 2.0])
    assert not dominates([2.0, float("nan")], [1.0, 2.0])


def test_a_point_without_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"points must be numbers, but \[1, 0\] is NaN"):
        front(np.array([[1.0, 2.0], [np.nan, 1.0]]))


def test_room_is_the_gap_between_neighbours() -> None:
    room = crowding(np.array([[0.0, 4.0], [1.0, 3.0], [4.0, 0.0]]))
    assert room.tolist() == [np.inf, 2.0, np.inf]
    assert crowding(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 4.0]])).tolist() == [np.inf, 1.0, np.inf]
    assert crowding(np.zeros((0, 2))).tolist() == []


def test_the_spread_keeps_the_ends_and_leaves_out_the_crowded() -> None:
    line = np.array([[0.0, 10.0], [1.0, 9.0], [1.5, 8.5], [5.0, 5.0], [10.0, 0.0]])
    assert spread(line, 4, first=3) == [0, 2, 3, 4]
    assert spread(line, 3, first=3) == [0, 3, 4]
    assert spread(line, 3, first=2) == [0, 2, 4]
    assert spread(line, 9, first=0) == [0, 1, 2, 3, 4]


@given(POINTS, st.integers(1, 6), st.data())
def test_the_spread_is_as_large_as_asked_and_holds_the_pick(
    points: np.ndarray, count: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(points) - 1))
    kept = spread(points, count, first)
    assert len(set(kept)) == len(kept) == min(count, len(points))
    assert first in kept
    assert kept == sorted(kept)
