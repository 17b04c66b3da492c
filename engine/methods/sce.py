"""SCE (Wan et al. 2024, FuseChat): select by variance, calculate weights, erase minority signs."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from evomerge.engine.method import Number, Strength, merge_method
from evomerge.engine.plan import Cut, Elected, ParameterStatistics, Plan, Score, as_expert, copy_base


@merge_method(name="sce", paper="arXiv:2408.07990", neutral={"lambda": 0.0})
def sce(
    statistics: ParameterStatistics,
    *,
    lambda_: Strength,
    select_topk: Annotated[float, Number(1.0, low=0.0, high=1.0, search=(0.1, 1.0))],
) -> Plan:
    """Merge where the experts differ most, weighted by how far each has moved; few numbers to tune.

    Only the int(select_topk * m) positions with the largest variance of d_i over the experts count, m the number of
    positions where it is not 0. There w_i = sum d_i^2 / sum_j sum d_j^2, signs are elected by sum_i d_i, and
    D = sum w_i d_i / sum w_i over the experts that agree. The result is b + lambda D.

    Pick it for chat models distilled or tuned on one base when weights are not worth a search: it finds its own for
    each parameter.

    lambda: the factor of the merged task vector.
    select_topk: the share of the positions that change.

    Variances that tie at the threshold are settled by their rows. One expert has no variance: b + lambda d, and the
    base for select_topk 0.
    """
    experts = range(len(statistics.task_gram()))
    if lambda_ == 0.0 or select_topk == 0.0:
        return copy_base(len(experts))
    if len(experts) == 1:
        return as_expert(lambda_)
    variances = Score("variance", tuple(experts))
    floor = None if select_topk == 1.0 else statistics.cut(variances, int(select_topk * statistics.nonzero(variances)))
    squares = _squares(statistics, floor)
    total = sum(squares)
    return Elected(tuple(s / total for s in squares) if total > 0.0 else squares, floor, lambda_)


def _squares(statistics: ParameterStatistics, floor: Cut | None) -> tuple[float, ...]:
    """sum d_i^2 of each expert over the positions that are selected."""
    own = [float(square) for square in np.diagonal(statistics.task_gram())]
    return tuple(own) if floor is None else statistics.selected_squares(range(len(own)), floor)
