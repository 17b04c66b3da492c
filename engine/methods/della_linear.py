"""DELLA (Deep et al. 2024): random masks that follow the magnitudes, summed as they are."""

from __future__ import annotations

from evomerge.engine.dare import Rescale, drop_by_rank
from evomerge.engine.method import Density, Epsilon, Lambda, Normalize, Weight, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, task_vectors


@merge_method(name="della_linear", paper="arXiv:2406.11617", random=True, ranked=True)
def della_linear(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    epsilon: Epsilon,
    lambda_: Lambda,
    normalize: Normalize,
    rescale: Rescale,
) -> Plan:
    """Drop small changes more often than large ones, rescale the rest, and add.

    An element is kept with a probability that rises with the rank of abs(d_i) in its row, evenly from density -
    epsilon to density + epsilon (section 3.1). b + lambda sum_i w_i drop(d_i) with these masks.

    Pick it like dare_linear; it keeps what matters most in each row at low densities, where DARE's blind masks lose it.

    weight: how much of each expert is added.
    density: the mean probability of keeping an element.
    epsilon: half the width of the range of probabilities; 0 is DARE.
    lambda: the factor of the merged task vector.
    rescale: by 1 / density (the paper divides each element by its own probability), by what restores the L1
    norm, or not at all.

    Probabilities outside [0, 1] count as 0 or 1; density 1 keeps everything and density 0 nothing. Rows are those of
    the last axis, a vector is one row. The masks follow from the recipe's seed alone. One expert: b + lambda w drop(d).
    """
    keep = drop_by_rank(statistics, density, epsilon, weight, rescale)
    return task_vectors(weight, keep, elect=False, normalize=normalize, scale=lambda_)
