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


class Elected(NamedTuple):
    """b + scale * D, with D = sum_i m_i w_i d_i / sum_i m_i w_i over the positions that are selected (SCE).

    m_i = [sign(d_i) == s], where s = +1 if sum_i d_i >= 0 and -1 otherwise; D = 0 where nothing is selected or agrees.

    Attributes:
        weights: w_i, n numbers >= 0.
        floor: only positions with the largest variances of d_i over the experts are selected; None: all.
        scale: the method's lambda.
    """

    weights: tuple[float, ...]
    floor: Cut | None
    scale: float


class Moved(NamedTuple):
    """b + scale * the mean of those d_i with abs(d_i) > epsilon; 0 where there are none.

    Attributes:
        experts: n.
        epsilon: what counts as moved.
        scale: the method's lambda.
    """

    experts: int
    epsilon: float
    scale: float


class Agreed(NamedTuple):
    """b + scale * T where at least k of the n masks abs(t_i) >= threshold * abs(T - t_i) hold, else b.

    t_i = w_i d_i and T = sum_i t_i.

    Attributes:
        weights: w_i, n numbers; an expert with weight 0 is not read, and has no mask.
        threshold: of the masks.
        k: how many masks must hold.
        scale: the method's lambda.
    """

    weights: tuple[float, ...]
    threshold: float
    k: float
    scale: float


class Limited(NamedTuple):
    """b + d, with d = x - b limited to [-limit, limit]; x itself where it lies inside. One expert."""

    limit: float


class Important(NamedTuple):
    """x where abs(d) times the row's importance reaches the threshold, else b. One expert.

    Attributes:
        importance: float64 [rows]; of the parameter's own rows, float32 numbers >= 0.
        threshold: a float32 number.
    """

    importance: Array
    threshold: float


class Competition(NamedTuple):
    """What turns the task vectors of n experts into PCB's scores; see `evomerge.engine.competition`.

    Attributes:
        lowest: n numbers; min d_i^2.
        strength: n numbers; n / 2^m / (max d_i^2 - min d_i^2), m = `doublings(n)`; 0 for a constant.
        center: of each pair i <= j, in order: the product d_i d_j nearest to 0.
        inverse: likewise 1 / (max d_i d_j - min d_i d_j), 0 for a constant.
        share: n x n; of each pair's softmax in the score of the first, rows sum to 1.
    """

    lowest: tuple[float, ...]
    strength: tuple[float, ...]
    center: tuple[float, ...]
    inverse: tuple[float, ...]
    share: tuple[tuple[float, ...], ...]


def pairs(experts: int) -> list[tuple[int, int]]:
    """All (i, j) with i <= j < experts, in the order in which a `Competition` holds them."""
    return [(i, j) for i in range(experts) for j in range(i, experts)]


def doublings(experts: int) -> int:
    """The smallest m with 2^m >= experts."""
    return (experts - 1).bit_length()


class Competing(NamedTuple):
    """b + scale * sum_i s_i w_i d_i / sum_i s_i, where s_i is expert i's score if that is large enough, else 0 (PCB).

    Attributes:
        weights: w_i, n numbers; an expert with weight 0 is not read and does not compete.
        competition: among those that do, m of them.
        level: m numbers; the score is this times (1 + the excess that `Competition` gives).
        floor: m cuts of the excess, each None where all scores are large enough.
        scale: the method's lambda.
    """

    weights: tuple[float, ...]
    competition: Competition
    level: tuple[float, ...]
    floor: tuple[Cut | None, ...]
    scale: float


Plan = Any
"""One of the above, or whatever else a kernel is registered for (`evomerge.engine.kernels.kernel_of`)."""


class Score(NamedTuple):
    """A number for each element of a parameter, computed from base and experts alone (`evomerge.engine.scores`).

    Attributes:
        kind: the name of a registered score.
        experts: which experts it looks at, by position.
        numbers: what else it depends on; hashable.
    """

    kind: str
    experts: tuple[int, ...]
    numbers: tuple[Any, ...] = ()


class ParameterStatistics(Protocol):
    """What a method may know about one parameter besides its coefficients. Experts go by their position.

    Everything is computed when it is first asked for and kept, unless it says otherwise.
    """

    @property
    def numel(self) -> int:
        """The number of elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape. Its rows are those of its last axis; a vector is one row."""

    def gram(self) -> Array:
        """Inner products of base (row 0) and experts: float64 [n + 1, n + 1]."""

    def row_grams(self) -> Array:
        """The same for each row of the parameter: float64 [rows, n + 1, n + 1]."""

    def task_gram(self) -> Array:
        """Inner products of the task vectors: float64 [n, n]."""

    def row_task_grams(self) -> Array:
        """The same for each row of the parameter: float64 [rows, n, n]."""

    def largest(self, expert: int, k: int) -> Cut | None:
        """Where the k largest of abs(d_i) end, 0 <= k; None: they are all of them."""

    def l1(self, expert: int, keep: Keep | None = None) -> float:
        """sum abs(d_i); with `keep`, over what its random masks leave. That is kept for recent masks only."""

    def cut(self, score: Score, k: int) -> Cut | None:
        """Where the k largest scores end, 0 <= k; None: they are all of them."""

    def ranked(self, score: Score, k: int) -> float:
        """The k-th largest score, 1 <= k <= numel. Scores are >= 0."""

    def nonzero(self, score: Score) -> int:
        """How many scores are not 0. Scores are >= 0."""

    def extremes(self, score: Score) -> tuple[float, float]:
        """The smallest and the largest score; (0, 0) where there are no elements."""

    def total(self, score: Score) -> float:
        """The sum of the scores, accumulated in float64."""

    def selected_squares(self, experts: Sequence[int], floor: Cut) -> tuple[float, ...]:
        """sum d_i^2 of each expert over the positions where the experts' variance passes the cut.

        It is kept for recent cuts only.
        """

    def divergences(self, expert: int) -> Array:
        """The importance of each row for `Important`: KL(softmax x + 1e-8, softmax b + 1e-8), float64 [rows]."""


def copy_base(experts: int) -> Combination:
    """The plan whose result is the base, bit for bit."""
    return Combination(1.0, (0.0,) * experts)


def move(coefficients: Sequence[float | Array]) -> Combination:
    """The plan for b + sum_i c_i d_i; each coefficient is a number or an array with one for each row."""
    total = sum(coefficients[1:], start=coefficients[0])
    return Combination(1.0 - total, tuple(coefficients))


def as_expert(scale: float) -> Combination:
    """The plan for b + scale * d of a single expert; with the scale 1 the expert bit for bit."""
    return Combination(1.0 - scale, (scale,))


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
