"""How the experts get along."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, LeftOut
from evomerge.runs.doctor.subject import Subject


@check("conflict", 95)
def conflict(subject: Subject) -> Iterator[Finding]:
    """Angles, signs and lengths of the experts' task vectors, and what they mean for methods and bounds."""
    if not subject.weights:
        raise LeftOut("weights are not to be read (--no-weights)")
    from evomerge.runs.doctor.advice import judged, lines_of
    from evomerge.runs.doctor.conflict import conflict_of

    found = conflict_of(subject.alignment)
    subject.parts["conflict"] = found.as_data(lines_of(found, subject.config.merge.method))
    yield from judged(found, subject.config.merge.method)
