"""Model Breadcrumbs (Davari and Belilovsky 2023): trimmed at both ends."""

from __future__ import annotations

from evomerge.engine.breadcrumbs import trim
from evomerge.engine.method import Density, Gamma, Lambda, Normalize, Weight, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, task_vectors


@merge_method(name="breadcrumbs", paper="arXiv:2312.06795")
def breadcrumbs(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    density: Density,
    gamma: Gamma,
    lambda_: Lambda,
    normalize: Normalize,
) -> Plan:
    """Drop the smallest and the very largest changes, and add the rest.

    Of abs(d_i) the int(gamma * numel) largest are dropped and, of the rest, all but the int(density * numel)
    largest. b + lambda sum_i w_i trim(d_i).

    Pick it for experts with outliers, a few weights that moved far and would break what the others know, and for
    hyperparameters that carry over from few experts to many.

    weight: how much of each expert is added.
    density: the share of each task vector that is left.
    gamma: the share of its largest elements that are dropped; as many as leave enough for the density.
    lambda: the factor of the merged task vector.

    Magnitudes that tie at either end are settled by their rows. One expert: b + lambda w trim(d).
    """
    keep = trim(statistics, density, gamma, weight)
    return task_vectors(weight, keep, elect=False, normalize=normalize, scale=lambda_)
