"""DARE with the task vectors summed as they are."""

from __future__ import annotations

from evomerge.engine.dare import Rescale, drop
from evomerge.engine.method import Density, Lambda, Normalize, Weight, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, task_vectors


@merge_method(name="dare_linear", paper="arXiv:2311.03099", random=True)
def dare_linear(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    lambda_: Lambda,
    normalize: Normalize,
    rescale: Rescale,
) -> Plan:
    """Drop most of each task vector at random, rescale the rest, and add.

    b + lambda sum_i w_i drop(d_i); drop keeps an element with probability `density` and rescales (section 3.2).

    Pick it for experts with small, redundant changes (light fine-tunings, LoRA), where little of each is needed:
    what is dropped cannot disturb the others. Large changes do not survive low densities.

    weight: how much of each expert is added.
    density: the probability of keeping an element.
    lambda: a common factor.
    rescale: how what is left makes up for what is dropped. The default is the paper's 1 / density; `l1` restores
    the L1 norm.

    The masks follow from the recipe's seed alone. One expert: b + lambda w drop(d).
    """
    keep = drop(statistics, density, weight, rescale)
    return task_vectors(weight, keep, elect=False, normalize=normalize, scale=lambda_)
