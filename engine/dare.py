"""Random masks for task vectors and what they are rescaled by, shared by DARE and DELLA.

DARE (Yu et al. 2023, arXiv:2311.03099) keeps every element with the same probability, DELLA (Deep et al. 2024,
arXiv:2406.11617) keeps large ones more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from evomerge.engine.method import Choice
from evomerge.engine.plan import EVERY, Keep, ParameterStatistics

Rescale = Annotated[str, Choice("inverse_density", ("inverse_density", "l1", "none"))]
"""How what survives is scaled.

- inverse_density: by 1 / density. The expectation over the masks is the whole task vector, and no second look at
  the weights is needed.
- l1: by norm1(d) / norm1(kept d), which restores this mask's L1 norm exactly (mergekit's rule).
- none: not at all.
"""


def drop(
    statistics: ParameterStatistics, density: Sequence[float], weight: Sequence[float], rescale: str
) -> list[Keep]:
    """DARE's rules: each element of d_i is kept with probability density_i. Experts with weight 0 are not looked at."""
    return [
        _rescaled(statistics, expert, Keep(cut=int(share * EVERY)), share, rescale) if weight[expert] else Keep()
        for expert, share in enumerate(density)
    ]


def drop_by_rank(
    statistics: ParameterStatistics,
    density: Sequence[float],
    epsilon: Sequence[float],
    weight: Sequence[float],
    rescale: str,
) -> list[Keep]:
    """DELLA's rules: the smallest element of a row is kept with density_i - epsilon_i, the largest with + epsilon_i.

    Probabilities below 0 count as 0 and those above 1 as 1. Density 1 keeps everything, density 0 nothing.
    """
    rules = []
    for expert, (share, half) in enumerate(zip(density, epsilon, strict=True)):
        rule = Keep(cut=int(share) * EVERY) if share in (0.0, 1.0) else Keep(density=share, epsilon=half)
        rules.append(_rescaled(statistics, expert, rule, share, rescale) if weight[expert] else Keep())
    return rules


def _rescaled(statistics: ParameterStatistics, expert: int, rule: Keep, density: float, rescale: str) -> Keep:
    if rule.everything or rule.cut == 0 or rescale == "none":
        return rule
    if rescale == "inverse_density":
        return rule._replace(scale=1.0 / density)
    kept = statistics.l1(expert, rule)
    return rule._replace(scale=statistics.l1(expert) / kept if kept > 0.0 else 1.0)
