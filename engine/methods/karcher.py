"""The Karcher mean: the point on a sphere with the least squared distance to the experts."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.geometry import spherical_mean
from evomerge.engine.method import Number, Switch, merge_method
from evomerge.engine.plan import Combination, ParameterStatistics, Plan, copy_base, move


@merge_method(name="karcher", paper="arXiv:2603.04972")
def karcher(
    statistics: ParameterStatistics,
    *,
    weight: Annotated[tuple[float, ...], Number(1.0, low=0.0, high=10.0, search=(0.0, 1.0))],
    task_vectors: Annotated[bool, Switch(False)],
) -> Plan:
    """Take the mean of the experts on the sphere: slerp for any number of models.

    The direction m that minimizes sum_i w_i angle(m, x_i)^2, found by the fixed-point iteration of Karcher (1977)
    on the n x n cosines until it stands still, times sum_i w_i norm(x_i) / sum_i w_i; for each parameter as a whole.

    Pick it instead of linear for models that lie far apart, where an average shrinks the weights. With equal
    weights it has nothing to tune.

    weight: each expert's share; only the ratios count.
    task_vectors: take the mean of the changes from the base; without it of the weights, and the base has no part.

    Weights that are all 0 give the base. A zero vector has no direction, and a vector opposite to the mean exerts no
    pull. Directions that cancel give the plain weighted average. One expert is copied.
    """
    total = sum(weight)
    if total == 0.0:
        return copy_base(len(weight))
    if weight.count(0.0) == len(weight) - 1:
        coefficients = [float(w > 0.0) for w in weight]
    else:
        gram = statistics.task_gram() if task_vectors else statistics.gram()[1:, 1:]
        coefficients = [float(c) for c in spherical_mean(gram, weight)]
    return move(coefficients) if task_vectors else Combination(0.0, tuple(coefficients))
