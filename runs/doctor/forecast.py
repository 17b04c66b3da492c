"""What a run was expected to take, kept in its study when it begins, and what it took, when it has ended."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evomerge.errors import EvomergeError
from evomerge.runs.doctor.findings import LeftOut

if TYPE_CHECKING:
    from evomerge.runs.doctor.subject import Subject
    from evomerge.runs.run import Run
    from evomerge.search.problem import Problem

FORECAST = "evomerge:forecast"
"""{seconds: {merge, score, sampler, total, gradient, final, once, wall, trial}, documents, memory: {host, device},
missing, begun}; `begun` in seconds since 1970."""

ACTUAL = "evomerge:actual"
"""{memory: {host, device}, seconds: {wall}}: the peak of the process, and the time since the forecast. Of several
workers, the time alone."""

CONFLICT = "evomerge:conflict"
"""As `conflict.Conflict.as_data` gives it."""

LEAKS = "evomerge:leaks"
"""One line for each grave leak."""


def remember(run: Run, problem: Problem) -> None:
    """Keep forecast, conflict between experts and leaks in the study of a run that begins. Never raises.

    What cannot be foreseen is left out, with one note.

    Args:
        run: just created.
        problem: its, with tasks and models loaded.
    """
    subject = _subject(run, problem)
    parts: dict[str, Callable[[Subject], Any]] = {FORECAST: _forecast, CONFLICT: _conflict, LEAKS: _leaks}
    for name, find in parts.items():
        _keep(run, name, lambda find=find: find(subject))  # type: ignore[misc]


def remember_actual(run: Run) -> None:
    """Keep what a run took, after its search has ended. Never raises."""
    _keep(run, ACTUAL, lambda: _actual(run))


def _subject(run: Run, problem: Problem) -> Subject:
    """What the checks look at, with what the problem has already."""
    from evomerge.runs.doctor.subject import Subject
    from evomerge.runs.doctor.tasks import Tasks

    subject = Subject(problem.config, offline=True, folder=run.folder)
    subject.tasks = Tasks((problem.evaluator,), {}, {})
    subject.space = problem.space
    subject.num_layers = problem.merger.num_layers
    subject.tokenizer = problem.merger.tokenizer
    if problem.config.runtime.workers == 1:
        subject.memory = problem.merger.memory
    return subject


def _forecast(subject: Subject) -> dict[str, Any]:
    from evomerge.runs.doctor.estimating import outlook

    return {**outlook(subject).as_data(), "begun": round(time.time(), 3)}


def _conflict(subject: Subject) -> dict[str, Any]:
    from evomerge.runs.doctor.advice import lines_of
    from evomerge.runs.doctor.conflict import conflict_of

    found = conflict_of(subject.alignment)
    return found.as_data(lines_of(found, subject.config.merge.method))


def _leaks(subject: Subject) -> list[str]:
    from evomerge.runs.doctor.leaks import leaks_of

    return [leak.text for leak in leaks_of(subject.tasks, subject.config.evaluate) if leak.grave]


def _actual(run: Run) -> dict[str, Any]:
    begun = run.study.user_attrs.get(FORECAST, {}).get("begun")
    wall = {} if begun is None else {"seconds": {"wall": round(time.time() - begun, 3)}}
    if run.config.runtime.workers > 1:
        return wall  # what processes share is counted in each of them
    import torch

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    device = sum(torch.cuda.max_memory_allocated(device) for device in devices)
    return {"memory": {"host": host, "device": device}, **wall}


def _keep(run: Run, name: str, find: Callable[[], Any]) -> None:
    """Find something and keep it in the study; where that fails, a note says why."""
    try:
        run.study.set_user_attr(name, find())
    except Exception as error:  # a forecast is never worth a run
        known = isinstance(error, EvomergeError | LeftOut)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        _note(run, f"no {name.removeprefix('evomerge:')}: {' '.join(reason.split())}")


def _note(run: Run, text: str) -> None:
    try:
        run.events.note(text)
    except Exception:  # nowhere to say so
        return
