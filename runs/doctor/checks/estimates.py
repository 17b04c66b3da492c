"""How long the search will take."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.cost import Estimates
from evomerge.runs.doctor.estimating import outlook
from evomerge.runs.doctor.findings import Finding, LeftOut, ok, warning
from evomerge.runs.doctor.subject import Subject
from evomerge.sizes import readable


@check("estimates", 85)
def estimates(subject: Subject) -> Iterator[Finding]:
    """Seconds, documents and memory of the whole search."""
    if not subject.tasks.prepared:
        raise LeftOut("no task with documents of text to count")
    found = outlook(subject)
    subject.parts["estimates"] = found.as_data()
    missing = f" (without {', '.join(found.missing)})" if found.missing else ""
    config = subject.config.search
    told = _told(found.estimates, missing)
    seconds = found.as_data()["seconds"]["wall"]
    if config.timeout is not None and seconds > config.timeout:
        yield warning(
            f"{told}, and search.timeout is {duration(config.timeout)}", "fewer trials, a lower `limit`, or more time"
        )
    else:
        yield ok(told)
    yield ok(f"memory at the peak, scoring included: about {readable(found.host)}", _device(found.device))


def _told(found: Estimates, missing: str) -> str:
    proposals = found.sampler - found.gradient
    parts = {
        "scoring": found.score,
        "merging": found.merge - found.once,
        "proposals": proposals,
        "gradient": found.gradient,
    }
    parts |= {"finalists and comparison": found.final, "statistics": found.once}
    whole = found.as_data()["seconds"]["wall"]
    listed = ", ".join(f"{name} {duration(value)}" for name, value in parts.items() if value >= 0.01 * whole)
    return (
        f"about {duration(whole)} ({listed}) with {found.documents:,} documents scored{missing}; "
        f"a full candidate takes {duration(found.trial)}"
    )


def _device(nbytes: int) -> str:
    return f"and {readable(nbytes)} on the GPU" if nbytes else ""


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.3 s, 12 s, 4 min, 2.5 h, 3 days."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{0 if seconds >= 10 * size or unit == 'min' else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} days"
