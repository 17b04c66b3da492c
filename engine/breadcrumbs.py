"""Model Breadcrumbs' trim (Davari and Belilovsky 2023, arXiv:2312.06795), shared by its two methods."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.engine.plan import Keep, ParameterStatistics


def trim(
    statistics: ParameterStatistics, density: Sequence[float], gamma: Sequence[float], weight: Sequence[float]
) -> list[Keep]:
    """The rules that drop the largest share gamma_i of abs(d_i) and keep the next largest share density_i.

    Where both do not fit, fewer of the largest are dropped. Experts with weight 0 are not looked at.
    """
    numel = statistics.numel
    rules = []
    for expert, (share, top) in enumerate(zip(density, gamma, strict=True)):
        kept = int(share * numel)
        dropped = min(int(top * numel), numel - kept)
        if weight[expert] == 0.0 or kept == numel:
            rules.append(Keep())
        elif kept == 0:
            rules.append(Keep(cut=0))
        else:
            ceiling = statistics.largest(expert, dropped) if dropped else None
            rules.append(Keep(floor=statistics.largest(expert, kept + dropped), ceiling=ceiling))
    return rules
