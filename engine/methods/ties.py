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
    """Trim small changes, let the experts vote on each sign, and average those that agree.

    t_i = w_i d_i with all but the largest int(density * numel) of abs(d_i) set to 0; where the sign of t_i is that
    of sum_i t_i, it is kept (section 3.1). The result is b + lambda sum_i t_i, divided by the kept weights under
    `normalize`.

    Pick it for three or more experts whose changes conflict. It is the usual strong choice without random masks.
    Densities between 0.2 and 0.6 are typical, and worth searching along with the weights.

    weight: how much each expert counts, in the vote and in the average.
    density: the share of each task vector that survives the trim.
    lambda: the factor of the merged task vector.

    Magnitudes that tie at the threshold are kept in the proportion that the density asks for, chosen by their rows.
    One expert: its trimmed task vector, at full strength under `normalize`.
    """
    keep = [
        Keep(floor=statistics.largest(expert, int(share * statistics.numel))) if weight[expert] != 0.0 else Keep()
        for expert, share in enumerate(density)
    ]
    return task_vectors(weight, keep, elect=True, normalize=normalize, scale=lambda_)
