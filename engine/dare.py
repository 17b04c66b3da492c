"""DARE (Yu et al. 2023): drop elements of the task vectors at random, rescale the rest. Shared by its two methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from evomerge.engine.method import Choice
from evomerge.engine.plan import EVERY, Keep, ParameterStatistics

Rescale = Annotated[str, Choice("inverse_density", ("inverse_density", "l1", "none"))]
"""How what survives is scaled.

- inverse_density: by 1 / density, as in the paper. The expectation over the masks is the whole task vector, and
  no second look at the weights is needed.
- l1: by norm1(d) / norm1(kept d), which restores this mask's L1 norm exactly (mergekit's rule).
- none: not at all.
"""


def drop(
    statistics: ParameterStatistics, density: Sequence[float], weight: Sequence[float], rescale: str
) -> list[Keep]:
    """The rules that keep each element of d_i with probability density_i. An expert with weight 0 is not looked at."""
    return [
        _rule(statistics, expert, share, rescale) if weight[expert] != 0.0 else Keep()
        for expert, share in enumerate(density)
    ]


def _rule(statistics: ParameterStatistics, expert: int, density: float, rescale: str) -> Keep:
    cut = int(density * EVERY)
    if cut in (0, EVERY) or rescale == "none":
        return Keep(cut=cut)
    if rescale == "inverse_density":
        return Keep(cut=cut, scale=1.0 / density)
    kept = statistics.l1(expert, cut)
    return Keep(cut=cut, scale=statistics.l1(expert) / kept if kept > 0.0 else 1.0)
