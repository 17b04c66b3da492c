"""Model Stock (Jang et al. 2024): the angle between the experts says how far to go from the base to their average."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.geometry import stock_ratio
from evomerge.engine.method import Switch, merge_method
from evomerge.engine.plan import ParameterStatistics, Plan, move


@merge_method(name="model_stock", paper="arXiv:2403.19522", min_experts=2, neutral={})
def model_stock(statistics: ParameterStatistics, *, filter_wise: Annotated[bool, Switch(False)]) -> Plan:
    """Average the experts and go back to the base as far as they disagree; nothing to tune.

    t mean_i x_i + (1 - t) b with t = n c / (1 + (n - 1) c), c the mean cosine between the task vectors.

    Pick it for several fine-tunings of one base on the same task, with different seeds or settings: it approaches
    the center of where they lie. Experts of different skills have task vectors at right angles, and then it stays
    near the base.

    filter_wise: a ratio for each row of the last axis (an output neuron) instead of one for the whole parameter.

    A zero task vector has the cosine 0 with the others. Where 1 + (n - 1) c is nearly 0 (below 1e-6), as for two
    opposite task vectors, the result is the base. There is nothing to search: it makes a single candidate.
    """
    gram = statistics.row_task_grams() if filter_wise else statistics.task_gram()
    ratio = stock_ratio(gram)
    share = (ratio if filter_wise else float(ratio)) / gram.shape[-1]
    return move([share] * gram.shape[-1])
