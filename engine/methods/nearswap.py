"""NearSwap: move each weight of the base towards one expert, by a limited step."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Number, merge_method
from evomerge.engine.plan import Limited, ParameterStatistics, Plan, copy_base


@merge_method(
    name="nearswap",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    max_experts=1,
    ordered=True,
    neutral={"t": 0.0},
)
def nearswap(
    statistics: ParameterStatistics, *, t: Annotated[float, Number(0.001, low=0.0, high=1000.0, search=(0.0, 0.01))]
) -> Plan:
    """Take from one expert what is close to the base anyway, and only a step of what is far.

    (1 - a) b + a x with a = min(t / abs(d), 1): a weight that differs by at most t becomes the expert's, any other
    moves by t towards it.

    Pick it to give a strong model a touch of another one's style without breaking it, even if the two were not
    trained from one base.

    t: the longest step of a weight, in its own units. Compare it with the typical abs(d): 0.0001 to 0.01.
    """
    return Limited(t) if t > 0.0 else copy_base(1)
