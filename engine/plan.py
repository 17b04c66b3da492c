"""What a merge method decides for one parameter: an element-wise kernel and its numbers. No torch here.

A method works in two parts. The first turns the parameter's statistics and the method's coefficients into a
plan (this module); the second is the plan's kernel, one pass over the elements (`evomerge.engine.kernels`).

Notation: b the base's parameter, x_i expert i's, d_i = x_i - b its task vector, n the number of experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

EVERY = 2**32
"""A cut that every 32-bit word lies below: keep all."""

NO_DIRECTION = 1e-8
"""A sum of weights smaller than this in absolute value normalizes nothing: it counts as 1."""


class Combination(NamedTuple):
    """c_0 b + sum_i c_i x_i.

    Sources with the coefficient 0 are not read: what they hold has no influence, and a single coefficient of 1
    gives that source bit for bit.

    Attributes:
        base: c_0; a number, or a float64 array [rows] with one for each row of the parameter's last axis.
        experts: c_i, n of them, each a number or an array likewise.
    """

    base: float | Array
    experts: tuple[float | Array, ...]


class Cut(NamedTuple):
    """Where the k largest magnitudes of a vector end.

    Attributes:
        value: magnitudes above it are among the k largest.
        ties: of the elements exactly at it, those in rows whose random word is below `ties`, in [0, 2^32], are too.
    """

    value: float
    ties: int = 0

    @property
    def below(self) -> float:
        """The largest float32 below the value: what rows compare with whose tied elements are among the k largest."""
        return float(np.nextafter(np.float32(self.value), np.float32(-np.inf)))


NOTHING = Cut(float("inf"))
"""The cut of k = 0."""


class Keep(NamedTuple):
    """Which elements of one expert's task vector survive, and by how much they are scaled.

    Attributes:
        floor: only the largest magnitudes survive, as far as this cut goes; None: all.
        ceiling: of those the largest ones do not survive, as far as this cut goes; None: all do.
        cut: an element survives iff its random word is below `cut`, in [0, 2^32]; 2^32 keeps all.
        density: an element survives iff its critical density (DELLA) is below it; None: it plays no part.
        epsilon: what the critical densities are computed with.
        scale: the factor of what survives.
    """

    floor: Cut | None = None
    ceiling: Cut | None = None
    cut: int = EVERY
    density: float | None = None
    epsilon: float = 0.0
    scale: float = 1.0

    @property
    def everything(self) -> bool:
        """Whether no element is dropped."""
        return self.floor is None and self.ceiling is None and self.cut == EVERY and self.density is None


class TaskVectors(NamedTuple):
    """b + scale * D, with t_i = w_i keep_i(d_i) and D = sum_i m_i t_i.

    Without election m_i = 1. With election m_i = [sign(t_i) == s], where s = +1 if sum_i t_i >= 0 and -1
    otherwise, and `normalize` divides D by sum_i m_i w_i (0 counts as 1).

    Attributes:
        weights: w_i, n numbers; an expert with weight 0 is not read.
        keep: n rules.
        elect: whether signs are elected.
        normalize: whether D is divided; only with election, since the divisor is a constant without.
        scale: the method's lambda.
    """

    weights: tuple[float, ...]
    keep: tuple[Keep, ...]
    elect: bool
    normalize: bool
    scale: float


Plan = Any
"""A `Combination`, a `TaskVectors`, or whatever else a kernel is registered for (`evomerge.engine.kernels.kernel_of`)."""


class ParameterStatistics(Protocol):
    """What a method may know about one parameter besides its coefficients. Experts go by their position."""

    @property
    def numel(self) -> int:
        """The number of elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape. Its rows are those of its last axis; a vector is one row."""

    def gram(self) -> tuple[tuple[float, ...], ...]:
        """Inner products of base (row 0) and experts, (n + 1) x (n + 1), accumulated in float64."""

    def row_grams(self) -> Array:
        """The same for each row of the parameter: float64 [rows, n + 1, n + 1]."""

    def largest(self, expert: int, k: int) -> Cut | None:
        """Where the k largest of abs(d_i) end, 0 <= k; None: they are all of them."""

    def l1(self, expert: int, cut: int = EVERY) -> float:
        """sum abs(d_i) over the elements whose random word is below `cut`, accumulated in float64."""


def copy_base(experts: int) -> Combination:
    """The plan whose result is the base, bit for bit."""
    return Combination(1.0, (0.0,) * experts)


def task_vectors(weights: Sequence[float], keep: Sequence[Keep], *, elect: bool, normalize: bool, scale: float) -> Plan:
    """The simplest plan for b + scale * D: a linear combination wherever nothing is dropped or elected."""
    active = [i for i, weight in enumerate(weights) if weight != 0.0]
    if not active or scale == 0.0:
        return copy_base(len(weights))
    elect = elect and not (len(active) == 1 and keep[active[0]].everything)
    if not elect:
        total = sum(weights)
        divisor = total if normalize and abs(total) >= NO_DIRECTION else 1.0
        weights, normalize = [weight / divisor for weight in weights], False
        if all(keep[i].everything for i in active):
            coefficients = tuple(scale * weight * rule.scale for weight, rule in zip(weights, keep, strict=True))
            return Combination(1.0 - sum(coefficients), coefficients)
    return TaskVectors(tuple(weights), tuple(keep), elect, normalize, scale)
