"""The Pareto front of candidates in several objectives, all of which are to be high.

One candidate of the front is picked where a single one is needed: the one with the highest weighted mean of the tasks,
the lowest number among equals. The rule is `evaluators.objective.combine` with "pareto"; it only orders candidates of
which none is better in everything, so a front of one task is its best candidate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def dominates(a: Floats | Sequence[float], b: Floats | Sequence[float]) -> bool:
    """Whether `a` is nowhere lower than `b` and somewhere higher; both of length k, higher is better.

    NaN is neither lower nor higher than anything: a point with one neither dominates nor is dominated.
    """
    first, second = np.asarray(a), np.asarray(b)
    return bool(np.all(first >= second) and np.any(first > second))


def front(points: Floats) -> npt.NDArray[np.intp]:
    """Which points no other one dominates (Deb et al. 2002, IEEE TEC 6(2), section III-A).

    Args:
        points: n x k, without NaN; higher is better in each of the k objectives.

    Returns:
        Their places in ascending order; equal points are all on the front, or none is.

    Raises:
        ValueError: a point has a NaN.
    """
    points = np.asarray(points, dtype=np.float64)
    if np.isnan(points).any():
        raise ValueError(f"points must be numbers, but {np.argwhere(np.isnan(points))[0].tolist()} is NaN")
    nowhere_lower = (points[:, None] >= points[None]).all(axis=2)  # [dominating, dominated]
    somewhere_higher = (points[:, None] > points[None]).any(axis=2)
    return np.flatnonzero(~(nowhere_lower & somewhere_higher).any(axis=0))


def crowding(points: Floats) -> Floats:
    """How much room each of n points has among the others (Deb et al. 2002, section III-B).

    Args:
        points: n x k, of one front.

    Returns:
        n sums over the objectives of the gap between a point's two neighbours, as a share of the objective's range;
        infinite for those at an end of an objective. An objective in which all are equal adds nothing.
    """
    points = np.asarray(points, dtype=np.float64)
    room = np.zeros(len(points))
    for values in points.T:
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        span = ordered[-1] - ordered[0] if len(ordered) else 0.0
        if span == 0:
            continue
        room[order[0]] = room[order[-1]] = np.inf
        room[order[1:-1]] += (ordered[2:] - ordered[:-2]) / span
    return room


def spread(points: Floats, count: int, first: int) -> list[int]:
    """At most `count` members of a front that lie far apart, one of them given.

    The member with the least room is left out, and the room of the others measured anew, until `count` are left.

    Args:
        points: n x k, of one front.
        count: at least 1.
        first: the place of the member that stays in any case.

    Returns:
        Their places in ascending order.
    """
    kept = list(range(len(points)))
    while len(kept) > count:
        room = crowding(points[kept])
        room[kept.index(first)] = np.inf
        ends = [place for place in range(len(kept)) if kept[place] != first]
        # Of several at an end (there are more ends than places), the last in order goes.
        kept.pop(min(ends, key=lambda place: (room[place], -place)))
    return kept
