"""NuSLERP: spherical interpolation between two experts, of their task vectors or of their weights."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.geometry import arc
from evomerge.engine.method import Switch, Weight, merge_method
from evomerge.engine.plan import Combination, ParameterStatistics, Plan, copy_base, move

CANCELLED = 1e-6


@merge_method(name="nuslerp", paper="doi:10.1145/325165.325242", min_experts=2, max_experts=2)
def nuslerp(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    task_vectors: Annotated[bool, Switch(True)],
    row_wise: Annotated[bool, Switch(False)],
) -> Plan:
    """Go from one expert to another along an arc around the base.

    b + slerp(d_1, d_2; t) with t = w_2 / (w_1 + w_2) and slerp as Shoemake's (1985), not normalized: the change
    keeps its size on the way, where an average of two changes that point apart is smaller than both.

    Pick it for two fine-tunings of one base, when a plain average feels weaker than either.

    weight: only the ratio counts.
    task_vectors: interpolate the changes from the base; without it the weights themselves, and the base has no part.
    row_wise: an arc for each row of the last axis (an output neuron) instead of one for the whole parameter.

    Weights that are both 0 give the base; weights that cancel (abs(w_1 + w_2) < 1e-6) count as equal. Where no arc is
    defined, between parallel, opposite or zero vectors (sine of the angle below 1e-4), it is the straight line.
    """
    if weight == (0.0, 0.0):
        return copy_base(2)
    t = weight[1] / sum(weight) if abs(sum(weight)) >= CANCELLED else 0.5
    if task_vectors:
        gram = statistics.row_task_grams() if row_wise else statistics.task_gram()
    else:
        gram = (statistics.row_grams() if row_wise else statistics.gram())[..., 1:, 1:]
    first, second = arc(gram, t)
    pair = (first, second) if row_wise else (float(first), float(second))
    return move(pair) if task_vectors else Combination(0.0, pair)
