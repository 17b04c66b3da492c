"""Consensus merging (Wang et al. 2024): keep the weights that several tasks need, by their TALL masks."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Lambda, Number, Weight, merge_method
from evomerge.engine.plan import Agreed, ParameterStatistics, Plan, copy_base


@merge_method(name="consensus", paper="arXiv:2405.07813")
def consensus(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    threshold: Annotated[float, Number(0.4, low=0.0, high=10.0, search=(0.2, 0.6))],
    agree: Annotated[float, Number(2.0, low=0.0, high=1000.0)],
    lambda_: Lambda,
) -> Plan:
    """Sum the experts' changes where at least two of them need the result, and drop the rest.

    t_i = w_i d_i, T = sum_i t_i. Expert i needs a weight, by its TALL mask, if abs(t_i) >= threshold * abs(T -
    t_i). The result is b + lambda T where at least `agree` experts do, and b elsewhere.

    Pick it for many experts, from four upwards: it removes weights that only one task uses and that disturb all
    others, and those that none needs.

    weight: how much of each expert goes into the sum.
    threshold: how large an expert's own change must be beside the others' together; the paper tunes it in [0.2, 0.6].
    agree: how many experts must need a weight, the paper's k; a fraction counts as the next whole number.
    lambda: the factor of the masked sum.

    Experts with weight 0 take no part. Where fewer than `agree` are left, all of them must need the weight; so one
    expert gives b + lambda w d.
    """
    active = sum(w != 0.0 for w in weight)
    if active == 0 or lambda_ == 0.0:
        return copy_base(len(weight))
    return Agreed(weight, threshold, min(agree, float(active)), lambda_)
