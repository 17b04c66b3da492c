"""Task arithmetic (Ilharco et al. 2022): add weighted task vectors to the base."""

from __future__ import annotations

from evomerge.engine.method import Lambda, Normalize, Weight, merge_method
from evomerge.engine.plan import Keep, ParameterStatistics, Plan, task_vectors


@merge_method(name="task_arithmetic", paper="arXiv:2212.04089")
def task_arithmetic(statistics: ParameterStatistics, *, weight: Weight, lambda_: Lambda, normalize: Normalize) -> Plan:
    """Add what each expert has learned to the base.

    b + lambda sum_i w_i d_i (section 2); `normalize` divides the sum by sum_i w_i.

    Pick it for experts of different skills on one base: it is fast, exact and smooth in its weights, so a search
    finds good ones quickly. A negative weight takes a behaviour out. When many experts disturb each other, compare
    ties, della or pcb.

    weight: how much of each expert's task vector is added.
    lambda: a common factor.

    A sum of weights that is nearly 0 (abs < 1e-8) normalizes nothing. One expert: b + lambda w d.
    """
    keep = [Keep()] * len(weight)
    return task_vectors(weight, keep, elect=False, normalize=normalize, scale=lambda_)
