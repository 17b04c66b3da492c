"""Spherical linear interpolation (Shoemake 1985) from the base to one expert."""

from __future__ import annotations

import math
from typing import Annotated

from evomerge.engine.method import Number, merge_method
from evomerge.engine.plan import Combination, ParameterStatistics, Plan

PARALLEL = 0.9995


@merge_method(name="slerp", paper="doi:10.1145/325165.325242", max_experts=1, ordered=True, neutral={"t": 0.0})
def slerp(
    statistics: ParameterStatistics, *, t: Annotated[float, Number(0.5, low=0.0, high=1.0, search=(0.0, 1.0))]
) -> Plan:
    """Go from the base to one expert along an arc.

    (sin((1-t) theta) b + sin(t theta) x) / sin theta, with theta the angle between b and x, not normalized.

    Pick it to blend two models, the base being one of them, where a straight average would shrink the weights:
    models that were trained apart. Between a base and its own fine-tuning the arc is nearly a line. For two
    fine-tunings of one base take nuslerp, for more multislerp or karcher.

    t: 0 is the base, 1 the expert.

    Plain (1-t) b + t x where abs(cos theta) > 0.9995, and where b or x is zero and so has no angle.
    """
    if t in (0.0, 1.0):
        return Combination(1.0 - t, (t,))
    (bb, bx), (_, xx) = statistics.gram()
    if bb <= 0.0 or xx <= 0.0:
        return Combination(1.0 - t, (t,))
    cosine = bx / (math.sqrt(bb) * math.sqrt(xx))
    if abs(cosine) > PARALLEL:
        return Combination(1.0 - t, (t,))
    theta = math.acos(cosine)
    return Combination(math.sin((1.0 - t) * theta) / math.sin(theta), (math.sin(t * theta) / math.sin(theta),))
