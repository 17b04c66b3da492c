"""DARE with the task vectors summed as they are."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.dare import Rescale, drop
from evomerge.engine.method import Density, Lambda, Switch, Weight, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, task_vectors


@merge_method(name="dare_linear", paper="arXiv:2311.03099", random=True)
def dare_linear(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    lambda_: Lambda,
    normalize: Annotated[bool, Switch(False)],
    rescale: Rescale,
) -> Plan:
    """The base plus lambda sum_i w_i drop(d_i); drop keeps an element with probability `density` (section 3.2)."""
    keep = drop(statistics, density, weight, rescale)
    return task_vectors(weight, keep, elect=False, normalize=normalize, scale=lambda_)
