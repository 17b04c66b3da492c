"""PCB-Merging (Du et al. 2024): parameters compete, inside a task and between tasks, for their share in the merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from evomerge.engine.method import Lambda, Number, Weight, merge_method
from evomerge.engine.plan import (
    Array,
    Competing,
    Competition,
    ParameterStatistics,
    Plan,
    Score,
    copy_base,
    doublings,
    pairs,
)

FLAT = 1e-37
"""Products whose range is smaller are taken as constant: the range's inverse would overflow."""


@merge_method(name="pcb", paper="arXiv:2410.02396", max_experts=64)
def pcb(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Annotated[tuple[float, ...], Number(0.2, low=0.0, high=1.0)],
    lambda_: Lambda,
) -> Plan:
    """Keep of each expert what is large and what the others second, and average it by these scores.

    The score of expert i is softmax(n Norm(d_i^2)) * sum_j softmax(Norm(d_i d_j)), element by element, where Norm
    maps the smallest element of a vector to 0 and its largest to 1 and each softmax runs over the parameter
    (section 3.2, intra- and inter-balancing). Scores below the largest int(density * numel) become 0 (drop), and
    the result is b + lambda sum_i s_i w_i d_i / sum_i s_i (rescale).

    Pick it for experts of different skills and sizes when ties leaves conflicts: what counts is weighed for each
    element, not only its sign. It looks at each pair of experts, so it is best for ten or fewer.

    weight: the factor of each task vector. The paper searches them, too.
    density: the share of each expert's elements that stay in; the paper's mask ratio, 0.05 to 0.2.
    lambda: the factor of the merged task vector.

    The paper scores the whole model at once, this method each parameter by itself. Experts with weight 0 do not
    compete. Scores that tie at the threshold are settled by their rows; a constant vector has Norm 0. One expert:
    b + lambda w d with its largest elements.
    """
    active = [i for i, w in enumerate(weight) if w != 0.0]
    if not active or lambda_ == 0.0 or statistics.numel == 0:
        return copy_base(len(weight))
    competition, level = _compete(statistics, active)
    floors = tuple(
        statistics.cut(Score("competition", tuple(active), (i, competition)), int(density[expert] * statistics.numel))
        for i, expert in enumerate(active)
    )
    return Competing(weight, competition, level, floors, lambda_)


def _compete(statistics: ParameterStatistics, active: Sequence[int]) -> tuple[Competition, tuple[float, ...]]:
    """The numbers of the competition among these experts, and the level of each one's score (the largest is 1)."""
    n, numel = len(active), statistics.numel
    lowest, strength, own = [], [], np.zeros(n)
    center, inverse, shared = [], [], np.zeros((n, n))
    for i, j in pairs(n):
        low, high = statistics.extremes(Score("product", (active[i], active[j])))
        center.append(min(max(0.0, low), high))
        inverse.append(_inverse(high - low))
        numbers = (center[-1], inverse[-1])
        shared[i, j] = shared[j, i] = numel + statistics.total(
            Score("competition: shared", (active[i], active[j]), numbers)
        )
        if i == j:
            lowest.append(low)
            strength.append(n / 2 ** doublings(n) * inverse[-1])
            own[i] = numel + statistics.total(Score("competition: own", (active[i],), (low, strength[-1], n)))
    share, level = _shares(shared), (1.0 / shared).sum(axis=1) / own
    competition = Competition(tuple(lowest), tuple(strength), tuple(center), tuple(inverse), share)
    return competition, tuple(float(x) for x in level / level.max())


def _shares(shared: Array) -> tuple[tuple[float, ...], ...]:
    weight = 1.0 / shared
    return tuple(tuple(float(x) for x in row / row.sum()) for row in weight)


def _inverse(span: float) -> float:
    return 1.0 / span if span > FLAT else 0.0
