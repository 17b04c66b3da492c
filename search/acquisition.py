"""Where a candidate promises most: the largest expected improvement along the directions of a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from evomerge.search.features import Floats
from evomerge.search.stages import Stage
from evomerge.search.surrogate import Posterior

WIDE = 512  # points all over the span of a global stage
NEAR = 512  # points around good ones
ROUNDS = 4  # of refinement, each with steps of half the size
TOP = 5  # points that a round refines
EACH = 40  # points around each of them
STEP_LOW, STEP_HIGH = 0.02, 0.5  # of the box
MOVED = 8  # numbers that a step moves on average


class Proposal(NamedTuple):
    """A point in unit coordinates [D], and the improvement to be expected of it."""

    point: Floats
    improvement: float


Score = Callable[[Floats], Floats]


def expected_improvement(posterior: Posterior, best: float) -> Floats:
    """E max(f - best, 0) at each point (Jones, Schonlau and Welch 1998, equation 15)."""
    z = (posterior.mean - best) / posterior.sd
    return np.asarray(posterior.sd * (z * norm.cdf(z) + norm.pdf(z)))


def propose(stage: Stage, bases: Floats, score: Score, generator: np.random.Generator) -> Proposal:
    """The best point found: by random steps along the stage's directions, then by smaller and smaller ones.

    Args:
        stage: gives directions.
        bases: good points to step from, b x D in the unit cube; at least one.
        score: of points [n, D]: higher is better.
        generator: of random numbers.

    Returns:
        A point of the unit cube, which is none of `bases`.
    """
    points = _around(stage, bases, NEAR // len(bases), generator, STEP_LOW, STEP_HIGH)
    if stage.is_global:
        points = np.concatenate([points, stage.origin + generator.random((WIDE, stage.size)) @ stage.directions])
    values = score(points)
    for halving in range(1, ROUNDS + 1):
        top = np.argsort(-values, kind="stable")[:TOP]
        near = _around(stage, points[top], EACH, generator, STEP_LOW / 2**halving, STEP_HIGH / 2**halving)
        points, values = np.concatenate([points[top], near]), np.concatenate([values[top], score(near)])
    best = int(np.argmax(values))
    return Proposal(points[best], float(values[best]))


def _around(stage: Stage, bases: Floats, count: int, generator: np.random.Generator, low: float, high: float) -> Floats:
    """`count` points around each base; each moves some of the stage's numbers by steps of a size, in the box."""
    shape = (len(bases) * count, stage.size)
    size = np.exp(generator.uniform(np.log(low), np.log(high), shape[0]))
    moved = generator.random(shape) < min(1.0, MOVED / stage.size)
    moved[np.arange(shape[0]), generator.integers(stage.size, size=shape[0])] = True
    steps = np.where(moved, generator.standard_normal(shape), 0.0) * size[:, None]
    return np.clip(np.repeat(bases, count, axis=0) + steps @ stage.directions, 0.0, 1.0)
