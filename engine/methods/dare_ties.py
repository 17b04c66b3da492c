"""DARE with the task vectors merged under an elected sign."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.dare import Rescale, drop
from evomerge.engine.method import Density, Lambda, Switch, Weight, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, task_vectors


@merge_method(name="dare_ties", paper="arXiv:2311.03099", random=True)
def dare_ties(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    lambda_: Lambda,
    normalize: Annotated[bool, Switch(False)],
    rescale: Rescale,
) -> Plan:
    """As ties, but each element of d_i is kept with probability `density` instead of by its magnitude."""
    keep = drop(statistics, density, weight, rescale)
    return task_vectors(weight, keep, elect=True, normalize=normalize, scale=lambda_)
