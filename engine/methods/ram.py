"""RAM, Reinforced Agent Merging: add what one expert alone has changed, average what several have."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.method import Number, Strength, merge_method
from evomerge.engine.plan import Moved, ParameterStatistics, Plan, copy_base


@merge_method(name="ram", paper="arXiv:2601.13572", neutral={"lambda": 0.0})
def ram(
    statistics: ParameterStatistics,
    *,
    lambda_: Strength,
    epsilon: Annotated[float, Number(1e-5, low=0.0, high=1.0)],
) -> Plan:
    """Add changes that only one expert has made in full, and average those that several share.

    b + lambda * the mean of those d_i with abs(d_i) > epsilon.

    Pick it for experts whose changes are sparse, as after reinforcement learning: an average would divide each
    expert's own changes by n although the others never touched those weights.

    lambda: the factor of the merged task vector.
    epsilon: what counts as a change. Below the rounding of the stored weights, everything that differs does.

    One expert: b + lambda d, without the changes up to epsilon.
    """
    experts = len(statistics.task_gram())
    return Moved(experts, epsilon, lambda_) if lambda_ != 0.0 else copy_base(experts)
