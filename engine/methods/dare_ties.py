"""DARE with the task vectors merged under an elected sign."""

from __future__ import annotations

from evomerge.engine.dare import Rescale, drop
from evomerge.engine.method import Density, Lambda, Normalize, Weight, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, task_vectors


@merge_method(name="dare_ties", paper="arXiv:2311.03099", random=True)
def dare_ties(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    lambda_: Lambda,
    normalize: Normalize,
    rescale: Rescale,
) -> Plan:
    """Drop most of each task vector at random, then let the experts vote on each sign.

    As ties, but each element of d_i is kept with probability `density` instead of by its magnitude.

    Pick it like dare_linear, when the experts' changes also conflict in sign.

    weight: how much each expert counts, in the vote and in the sum.
    density: the probability of keeping an element.
    lambda: the factor of the merged task vector.
    rescale: as in dare_linear.

    The masks follow from the recipe's seed alone. One expert: as in dare_linear.
    """
    keep = drop(statistics, density, weight, rescale)
    return task_vectors(weight, keep, elect=True, normalize=normalize, scale=lambda_)
