"""A task's number as a mean over documents, also where it is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluators import TaskMetric

_GROUPS = 24  # of documents left out in turn, where a task's number is a function of all its documents


def pseudo_values(task: TaskMetric, values: NDArray[np.float64], items: Sequence[str | None]) -> NDArray[np.float64]:
    """The jackknife's pseudo-values of a task's number: one for each of n documents, with the number as their mean.

    They are A + (n - 1) (the mean of A without one - A without i), centred on the number A (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, equation 11.5); their variance is the jackknife's. Those of a mean are the
    values. Where the number is a function of all documents, and dear, there is one for each of at most 24 groups of
    consecutive documents instead.

    Args:
        task: says how documents become its number.
        values: of the documents, n; NaN where a document of a mean has none.
        items: what else the aggregation needs of each, n.

    Returns:
        n numbers, or at most 24; of a mean with NaN where `values` has it.
    """
    if task.aggregation.is_mean:
        return values
    count = len(values)
    groups = count if task.aggregation.corpus is None else min(count, _GROUPS)
    left_out = np.arange(count) * groups // count
    kept = (left_out[None, :] != np.arange(groups)[:, None]).astype(np.float64)
    numbers = task.aggregation.resampled(values, items, np.vstack([np.ones(count), kept]))
    return np.asarray(numbers[0] + (groups - 1) * (numbers[1:].mean() - numbers[1:]))
