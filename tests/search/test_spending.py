"""Levels of looks, against the joint distribution they are derived from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from evomerge.search.spending import nominal_levels, pocock


def crossed(levels: tuple[float, ...], shares: list[float], paths: int = 200_000) -> float:
    """How many simulated Brownian motions fall below one of the levels' boundaries."""
    information = np.array([share / (1 - share) for share in shares if share < 1])
    steps = np.random.default_rng(0).normal(size=(paths, len(information)))
    z = np.cumsum(steps * np.sqrt(np.diff(information, prepend=0)), axis=1) / np.sqrt(information)
    return float((z < ndtri(np.array(levels[: len(information)]))).any(axis=1).mean())


@pytest.mark.parametrize("error", [0.01, 0.1, 0.4])
@pytest.mark.parametrize("shares", [[0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0], [0.5, 1.0], [0.3, 0.6, 0.99]])
def test_all_looks_together_spend_the_error(error: float, shares: list[float]) -> None:
    spent = crossed(nominal_levels(error, shares), shares)
    assert abs(spent - error) < 4 * math.sqrt(error * (1 - error) / 200_000) + 1e-3 * error


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 99), min_size=1, max_size=8, unique=True), st.floats(0.001, 0.45))
def test_levels_are_within_the_error_and_the_last_look_at_everything_needs_none(
    percents: list[int], error: float
) -> None:
    levels = nominal_levels(error, [*(percent / 100 for percent in sorted(percents)), 1.0])
    assert len(levels) == len(percents) + 1
    assert all(0 < level <= error * (1 + 1e-9) for level in levels[:-1])
    assert levels[-1] == 0.0
    assert sum(levels) >= error * (1 - 1e-3)  # Boole's inequality: looks that overlap may be less strict


def test_a_single_look_spends_everything() -> None:
    assert nominal_levels(0.1, [0.4, 1.0]) == pytest.approx((0.1, 0.0))
    assert nominal_levels(0.1, [1.0]) == (0.0,)


def test_half_way_pocock_has_spent_most() -> None:
    assert pocock(0.0, 0.1) == 0.0
    assert pocock(1.0, 0.1) == pytest.approx(0.1)
    assert pocock(0.5, 0.1) > 0.06
