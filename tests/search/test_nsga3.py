"""NSGA-III: reference points, and survivors that spread over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import create_trial

from evomerge.errors import InputError
from evomerge.search.samplers.making import make_sampler
from evomerge.search.samplers.nsga3 import ReferencePointSampler, spread_points
from evomerge.search.sampling import SamplerContext
from tests.search.driver import box


@pytest.mark.parametrize(("objectives", "divisions"), [(2, 15), (3, 4), (5, 3)])
def test_reference_points_are_those_of_das_and_dennis(objectives: int, divisions: int) -> None:
    found = spread_points(objectives, divisions)
    assert len(found) == math.comb(objectives + divisions - 1, divisions)
    assert len({tuple(point) for point in found.round(9)}) == len(found)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.allclose((found * divisions).round(), found * divisions)


def pool(values: list[list[float]]) -> list[Any]:
    x = FloatDistribution(0.0, 1.0)
    study = optuna.create_study(directions=["maximize"] * len(values[0]))
    for row in values:
        study.add_trial(create_trial(values=row, params={"x": 0.5}, distributions={"x": x}))
    return study.get_trials()


def test_survivors_are_one_for_each_direction_and_higher_values_are_better() -> None:
    """A front of three clusters, and a trial that all of them dominate."""
    angles = [0.0, 0.01, 0.02, 0.78, 0.79, 0.80, 1.55, 1.56, 1.57]
    front = [[math.cos(angle), math.sin(angle)] for angle in angles]
    sampler = ReferencePointSampler(SamplerContext(3, 0, box(1), 2), 3, spread_points(2, 2))
    chosen = sampler.select(pool([*front, [0.0, 0.0]]), [StudyDirection.MAXIMIZE] * 2, 1)
    assert sorted(trial.number // 3 for trial in chosen) == [0, 1, 2]


def test_survivors_of_a_generation_are_the_same_for_every_child() -> None:
    rng = np.random.default_rng(0)
    trials = pool(rng.normal(size=(40, 3)).tolist())
    chosen = [
        ReferencePointSampler(SamplerContext(3, number, box(1), 3), 16, spread_points(3, 4)).select(
            trials, [StudyDirection.MAXIMIZE] * 3, 1
        )
        for number in (40, 41)
    ]
    assert [trial.number for trial in chosen[0]] == [trial.number for trial in chosen[1]]


@pytest.mark.parametrize("points", [[[1.0, 0.0, 0.0]], [[0.0, 0.0]], []])
def test_reference_points_must_fit_the_objectives(points: Any) -> None:
    context = SamplerContext(0, 0, box(1), 2, options={"reference_points": points})
    with pytest.raises(InputError, match="must be points of 2 numbers that are not all 0, one for each objective"):
        make_sampler("nsga3", context)


def test_preferred_directions_decide_who_survives() -> None:
    """Losing only in the second objective is preferred: those best in the first stay."""
    angles = np.linspace(0.0, math.pi / 2, 9)
    trials = pool([[math.cos(angle), math.sin(angle)] for angle in angles])
    sampler = ReferencePointSampler(SamplerContext(3, 0, box(1), 2), 2, np.array([[0.01, 1.0]]))
    chosen = sampler.select(trials, [StudyDirection.MAXIMIZE] * 2, 0)
    assert min(trial.number for trial in chosen) == 0
