"""Whether there are enough documents for the gains that are worth finding."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, LeftOut, ok, warning
from evomerge.runs.doctor.power import DISAGREE, RATE, SPREAD, Power, measurable, power_of
from evomerge.runs.doctor.subject import Subject

WORTH = 0.05
"""A gain that a search should be able to show on `report`."""

TOO_LUCKY = 0.03
"""Luck of the choice beyond which the winner's score on `search` says little."""


@check("power", 80)
def power(subject: Subject) -> Iterator[Finding]:
    """Which gain can be seen on `report`, and how lucky the winner will be on `search`."""
    found, config = subject.tasks, subject.config
    metrics = measurable(found.metrics)
    if not metrics:
        raise LeftOut("no task with a mean over documents to look at")
    seen = power_of(metrics, found.counts("report"), found.counts("search"), config.search.trials)
    if not found.left_out:
        subject.parts["power"] = _as_data(seen)
    some = f" (without {', '.join(found.left_out)})" if found.left_out else ""
    yield _gain(seen, some)
    yield _luck(seen, config.search.trials, config.search.finalists, some)


def _gain(seen: Power, some: str) -> Finding:
    documents = sum(task.documents for task in seen.tasks.values())
    if not documents or min(task.documents for task in seen.tasks.values()) == 0:
        return warning("a task has no documents in `report`, so no gain can be shown", "give `splits.report` a share")
    told = (
        f"{documents:,} documents of report show gains from {100 * seen.gain:.1f} points on (80 % of searches, 5 % "
        f"two-sided; standard error {100 * seen.stderr:.1f} if two models differ on {DISAGREE:.0%} of documents){some}"
    )
    if seen.gain > WORTH:
        return warning(told, f"raise `limit` or `splits.report`; 2 points take {seen.needed:,} documents of report")
    return ok(told, f"2 points take {seen.needed:,}" if seen.needed > documents else "")


def _luck(seen: Power, trials: int, finalists: int, some: str) -> Finding:
    told = (
        f"the best of {trials} candidates should look {100 * seen.luck:.1f} points better on search than it is, "
        f"and to be {100 * seen.loss:.1f} worse than the best there is (true scores around {RATE:g} with a standard "
        f"deviation of {100 * SPREAD:.0f}){some}"
    )
    if seen.luck > TOO_LUCKY:
        return warning(
            told, f"more documents in search, or more than {finalists} finalists and a larger `splits.select`"
        )
    return ok(told)


def _as_data(seen: Power) -> dict[str, object]:
    """Finite numbers alone: a task without documents has null."""
    return {
        "stderr": _finite(seen.stderr),
        "gain": _finite(seen.gain),
        "luck": seen.luck,
        "loss": seen.loss,
        "needed": seen.needed,
        "tasks": {
            name: {"documents": each.documents, "stderr": _finite(each.stderr), "gain": _finite(each.gain)}
            for name, each in seen.tasks.items()
        },
    }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
