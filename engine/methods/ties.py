"""TIES (Yadav et al. 2023): trim, elect a sign, merge what agrees with it."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Density, Lambda, Switch, Weight, merge_method
from evomerge.engine.plan import Keep, ParameterStatistics, Plan, task_vectors


@merge_method(name="ties", paper="arXiv:2306.01708")
def ties(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    lambda_: Lambda,
    normalize: Annotated[bool, Switch(True)],
) -> Plan:
    """Keep the top int(density * numel) of abs(d_i) (section 3.1), elect signs, average what agrees.

    Magnitudes that tie at the threshold are kept in the proportion that the density asks for, chosen by their rows.
    """
    keep = [
        Keep(floor=statistics.largest(expert, int(share * statistics.numel))) if weight[expert] != 0.0 else Keep()
        for expert, share in enumerate(density)
    ]
    return task_vectors(weight, keep, elect=True, normalize=normalize, scale=lambda_)
