"""Weighted average of the experts."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Number, Switch, merge_method
from evomerge.engine.plan import Combination, ParameterStatistics, Plan, copy_base

CANCELLED = 1e-6


@merge_method(name="linear", paper="arXiv:2203.05482")
def linear(
    statistics: ParameterStatistics,
    *,
    weight: Annotated[tuple[float, ...], Number(1.0, low=-10.0, high=10.0, search=(0.0, 1.0))],
    normalize: Annotated[bool, Switch(True)],
) -> Plan:
    """Average the experts' weights: a model soup.

    sum_i w_i x_i / sum_i w_i; without `normalize` sum_i w_i x_i (Wortsman et al. 2022).

    Pick it for checkpoints of one training run or fine-tunings of one base on similar data, as the first thing to
    try, and as what any other method has to beat. Skills that pull weights in different directions fade in an
    average: there, task_arithmetic or ties keep more of each.

    weight: each expert's share.
    normalize: whether the shares are divided by their sum. Without it, weights that do not sum to 1 shrink or
    stretch the model.

    The base has no part in it, with one exception: weights that are all zero give the base. So do, under
    `normalize`, weights of mixed signs that cancel: abs(sum_i w_i) <= 1e-6 sum_i abs(w_i). One expert is copied.
    """
    size, total = sum(map(abs, weight)), sum(weight)
    if size == 0.0 or (normalize and abs(total) <= CANCELLED * size):
        return copy_base(len(weight))
    return Combination(0.0, tuple(w / total for w in weight) if normalize else weight)
