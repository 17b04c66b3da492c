"""Task arithmetic (Ilharco et al. 2022): add weighted task vectors to the base."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Lambda, Switch, Weight, merge_method
from evomerge.engine.plan import Keep, ParameterStatistics, Plan, task_vectors


@merge_method(name="task_arithmetic", paper="arXiv:2212.04089")
def task_arithmetic(
    statistics: ParameterStatistics, *, weight: Weight, lambda_: Lambda, normalize: Annotated[bool, Switch(False)]
) -> Plan:
    """The base plus lambda sum_i w_i d_i; `normalize` divides the sum by sum_i w_i (0 counts as 1)."""
    keep = [Keep()] * len(weight)
    return task_vectors(weight, keep, elect=False, normalize=normalize, scale=lambda_)
