"""Whether the report is about documents that the search has not seen."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, ok, warning
from evomerge.runs.doctor.leaks import leaks_of
from evomerge.runs.doctor.subject import Subject

UNKNOWN = "whether an expert was trained on these documents cannot be seen from here: its card may say"


@check("leaks", 90)
def leaks(subject: Subject) -> Iterator[Finding]:
    """Documents shared by splits, tasks and worked examples; test splits of benchmarks; answers in prompts."""
    tasks = subject.tasks
    found = leaks_of(tasks, subject.config.evaluate)
    subject.parts["leaks"] = [leak._asdict() for leak in found]
    for leak in found:
        yield warning(leak.text, leak.advice) if leak.grave else ok(leak.text, leak.advice)
    count = sum(len(prepared.documents) for prepared in tasks.prepared.values())
    if count and not found:
        yield ok(f"no document of {count:,} is in two splits or tasks, not even nearly")
    yield ok(UNKNOWN)
