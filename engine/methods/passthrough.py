"""One expert as it is, or scaled."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Number, merge_method
from evomerge.engine.plan import Combination, ParameterStatistics, Plan


@merge_method(name="passthrough", paper="arXiv:2403.13187", max_experts=1, ordered=True, neutral={})
def passthrough(
    statistics: ParameterStatistics, *, scale: Annotated[float, Number(1.0, low=-10.0, high=10.0, search=(0.5, 1.5))]
) -> Plan:
    """Copy one expert, each parameter times a number.

    scale * x; the base has no part in it.

    Pick it under a stack of layers, where the order of layers is searched and the weights stay (Akiba et al. 2024,
    section 3.2), or to damp repeated layers by scaling the modules that write into the residual stream.

    scale: 1 copies bit for bit.
    """
    return Combination(0.0, (scale,))
