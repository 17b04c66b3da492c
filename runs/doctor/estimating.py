"""The estimates of one subject: what checks tell and a run's forecast keeps."""

from __future__ import annotations

from typing import Any, NamedTuple

from evomerge.evaluators.types import SPLITS, Split
from evomerge.runs.doctor.cost import (
    LATER,
    Chunk,
    Estimates,
    Work,
    compiling_seconds,
    estimated,
    merge_seconds,
    scoring_bytes,
    statistics_seconds,
    work_of,
)
from evomerge.runs.doctor.findings import LeftOut
from evomerge.runs.doctor.probe import copy_rate, forward_speed
from evomerge.runs.doctor.subject import Subject
from evomerge.runs.doctor.tasks import Tasks


class Outlook(NamedTuple):
    """What a search is expected to take.

    Attributes:
        estimates: documents and seconds.
        host, device: bytes at the peak.
        missing: tasks whose documents are out of sight or no text, which are not counted.
    """

    estimates: Estimates
    host: int
    device: int
    missing: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """{seconds: {...}, documents, memory: {host, device}, missing}; see `Estimates.as_data`."""
        return {
            **self.estimates.as_data(),
            "memory": {"host": self.host, "device": self.device},
            "missing": list(self.missing),
        }


def outlook(subject: Subject) -> Outlook:
    """Time small things, and reckon.

    Raises:
        InputError: as the subject's attributes.
        LeftOut: models or tasks are out of sight, or the architecture cannot be timed.
    """
    import torch

    from evomerge.engine.model import DTYPES
    from evomerge.search.sampling import choose_sampler

    config, tasks = subject.config, subject.tasks
    work: dict[str, Work] = {name: work_of(each, subject.tokenizer) for name, each in tasks.prepared.items()}
    if not work:
        raise LeftOut("there is no task with documents of text to count")
    base = subject.alignment.checkpoints[0]
    dtype = DTYPES[config.merge.dtype]
    speed = forward_speed(subject.alignment.config, dtype, subject.device, trust_remote_code=base.ref.trust_remote_code)
    methods = config.merge.method
    objectives = 2 if config.evaluate.objective == "pareto" else 1
    sampler, _ = choose_sampler(config.search.sampler, subject.space, config.search.trials, objectives)
    found = estimated(
        config,
        {split: _plan(tasks, split) for split in SPLITS},
        work,
        speed,
        merge_seconds(subject.arenas, methods, copy_rate(subject.device)),
        statistics_seconds(subject.arenas, methods, torch.get_num_threads()),
        sampler,
        subject.gpus,
        compiling_seconds(subject.arenas, methods, config.search.trials),
    )
    scoring = scoring_bytes(work, subject.alignment.config.get_text_config(decoder=True), dtype.itemsize)
    on_gpu = subject.device.type == "cuda"
    missing = (*tasks.left_out, *tasks.troubles, *(name for name in tasks.names if name not in work))
    plan = subject.memory
    workers = subject.workers_here
    host = plan.host + workers * (LATER + (0 if on_gpu else scoring))
    return Outlook(found, host, plan.device + (scoring if on_gpu else 0), missing)


def _plan(tasks: Tasks, split: Split) -> list[Chunk]:
    chunks = [chunk for evaluator in tasks.evaluators for chunk in evaluator.chunks(split)]
    return [(chunk[0].task, len(chunk)) for chunk in chunks]
