"""Arcee Fusion: take over the important changes of one expert."""

from __future__ import annotations

import numpy as np

from evomerge.engine.method import merge_method
from evomerge.engine.plan import Important, ParameterStatistics, Plan, Score, copy_base

WHISKER = 1.5
SHARES = (0.25, 0.5, 0.75)


@merge_method(
    name="arcee_fusion",
    paper="https://www.arcee.ai/product/mergekit",
    max_experts=1,
    ordered=True,
    neutral={},
)
def arcee_fusion(statistics: ParameterStatistics) -> Plan:
    """Take over the changes of one expert that stand out, and keep the rest of the base; nothing to tune.

    The importance of a weight is abs(d) KL(softmax x, softmax b), the divergence taken along its row of the last
    axis. Weights whose importance is at least median + 1.5 (third - first quartile) become the expert's.

    Pick it to give one model the gist of another with as few changes as possible, and as a baseline that costs no
    search.

    The quartiles of a parameter's importances are exact for any size: the element at int(q (numel - 1)) in ascending
    order. There is nothing to search: it makes a single candidate.
    """
    numel = statistics.numel
    if numel == 0:
        return copy_base(1)
    importance = Score("importance", (0,))
    first, median, third = (statistics.ranked(importance, numel - int(share * (numel - 1))) for share in SHARES)
    return Important(statistics.divergences(0), float(np.float32(median + WHISKER * (third - first))))
