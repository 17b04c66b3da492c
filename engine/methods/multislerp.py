"""Multi-SLERP: the directions of any number of task vectors averaged on a sphere."""

from __future__ import annotations

from typing import Annotated

from evomerge.engine.geometry import mean_direction
from evomerge.engine.method import Switch, Weight, merge_method
from evomerge.engine.plan import Combination, ParameterStatistics, Plan, copy_base, move

CANCELLED = 1e-6


@merge_method(name="multislerp", paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea")
def multislerp(
    statistics: ParameterStatistics,
    *,
    weight: Weight,
    normalize: Annotated[bool, Switch(True)],
    task_vectors: Annotated[bool, Switch(True)],
) -> Plan:
    """Average the directions of the experts' changes, and give the result their average size.

    b + (sum_i w_i norm(d_i)) * unit(sum_i w_i d_i / norm(d_i)), for each parameter as a whole.

    Pick it for any number of fine-tunings whose changes point apart, so that a plain average would be weak, and
    whose sizes differ, so that a plain average would follow the largest. karcher is the exact mean on the sphere.

    weight: each expert's share.
    normalize: whether the shares are divided by their sum.
    task_vectors: average the changes from the base; without it the weights themselves, and the base has no part.

    Weights that are all 0 give the base, and so do, under `normalize`, weights that cancel (abs(sum_i w_i) <= 1e-6
    sum_i abs(w_i)). A zero vector has no direction. Directions that cancel give the plain weighted sum. One expert:
    its vector times its weight, or as it is under `normalize`.
    """
    size, total = sum(map(abs, weight)), sum(weight)
    if size == 0.0 or (normalize and abs(total) <= CANCELLED * size):
        return copy_base(len(weight))
    shares = [w / total for w in weight] if normalize else list(weight)
    gram = statistics.task_gram() if task_vectors else statistics.gram()[1:, 1:]
    coefficients = [float(c) for c in mean_direction(gram, shares)]
    return move(coefficients) if task_vectors else Combination(0.0, tuple(coefficients))
