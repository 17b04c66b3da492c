"""Whether the licences of the models let the merge be published."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.errors import InputError
from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, LeftOut, ok, skipped, warning
from evomerge.runs.doctor.subject import Subject


@check("licences", 69)
def licences(subject: Subject) -> Iterator[Finding]:
    """What the licences of base and experts say together. A search may run whatever they say."""
    from evomerge.runs.licences import verdict

    here = [source for source in subject.sources if not isinstance(source.held, InputError | LeftOut)]
    away = [source.label for source in subject.sources if source not in here]
    if away:
        yield skipped(f"the cards of {', '.join(away)} cannot be seen")
    if not here:
        return
    found = verdict([source.checkpoint.ref if subject.offline else source.ref for source in here])
    for conflict in found.conflicts:
        yield warning(conflict, "the merge must not be published; leave the model out if it is meant to be")
    if found.unknown:
        yield warning(
            f"no licence is known for {', '.join(found.unknown)}", "read their terms before you publish the merge"
        )
    for line in found.obligations:
        yield ok(line)
    if not found.conflicts and not found.unknown and not found.obligations:
        yield ok(", ".join(dict.fromkeys(source.name for source in found.sources)))
