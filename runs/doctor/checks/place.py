"""Whether this machine has what a search takes: device, memory, disk, database, libraries, compiler, workers."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from urllib.parse import urlsplit

from evomerge.errors import InputError
from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, LeftOut, error, ok, skipped, warning
from evomerge.runs.doctor.subject import Subject
from evomerge.sizes import readable

RUN_BYTES = 50_000_000
"""What a run's folder takes beside checkpoints: its database grows by about 100 bytes a document score."""

LOCAL_HOSTS = ("", "localhost", "127.0.0.1", "::1")
MANY_WRITERS = 4
"""Processes from which on SQLite's one lock is felt."""


@check("device", 60)
def device(subject: Subject) -> Iterator[Finding]:
    """Where candidates are scored."""
    import torch

    found = subject.device
    if found.type == "cuda":
        free, total = torch.cuda.mem_get_info(found)
        name = torch.cuda.get_device_name(found)
        yield ok(f"{found}: {name}, {readable(free)} of {readable(total)} free; {torch.cuda.device_count()} in all")
    else:
        yield ok(f"cpu: {torch.get_num_threads()} threads of {os.cpu_count()} cores")


@check("compiler", 61)
def compiler(subject: Subject) -> Iterator[Finding]:
    """Whether merge kernels can be compiled."""
    if subject.device.type == "cuda":
        return
    name = os.environ.get("CXX") or "g++"
    if shutil.which(name) is None:
        yield warning(
            f"there is no {name}: merges run uncompiled, bit for bit the same and some 20 times as slow",
            "install g++ and Python's headers",
        )
    else:
        yield ok(f"{name} compiles the merge kernels ({platform.machine()})")


@check("memory", 62)
def memory(subject: Subject) -> Iterator[Finding]:
    """What is kept where."""
    plan = subject.memory
    on_disk = [part.what for part in plan.parts if part.place == "disk"]
    workers = f" for {plan.workers} workers" if plan.workers > 1 else ""
    host = f"{readable(plan.host)} of memory{workers}"
    told = f"{host}, {readable(plan.device)} on the GPU" if plan.device else host
    if on_disk:
        yield warning(
            f"{told}; read from disk for every candidate: {', '.join(on_disk)}",
            "free memory or raise runtime.memory_limit; merges are then bound by memory instead of the disk",
        )
    else:
        yield ok(f"{told} at the peak of a merge, sources included")


@check("disk", 63)
def disk(subject: Subject) -> Iterator[Finding]:
    """Whether run and export have room."""
    folder = _existing(subject.folder)
    free = shutil.disk_usage(folder).free
    if free < RUN_BYTES:
        yield error(f"{folder} must have {readable(RUN_BYTES)} free for the run, but has {readable(free)}")
        return
    try:
        numel = sum(slot.live.numel() for slot in subject.alignment.layout.slots)
    except (InputError, LeftOut):
        yield ok(f"{readable(free)} free at {folder}; what an export takes cannot be seen")
        return
    export = numel * (4 if subject.config.merge.dtype == "float32" else 2)
    if free < export + RUN_BYTES:
        yield warning(
            f"{folder} has {readable(free)} free, and an export takes {readable(export)}",
            "free some, or export to another disk",
        )
    else:
        yield ok(f"{readable(free)} free at {folder}; an export takes {readable(export)}")


@check("folder", 64)
def run_folder(subject: Subject) -> Iterator[Finding]:
    """Whether the run's folder is new."""
    folder = subject.folder
    if (folder / "config.yaml").exists():
        yield warning(f"{folder} holds a run", f"`evomerge resume {folder}` goes on with it; or name another --out")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        yield warning(f"{folder} is not empty", "name another --out")
    elif not os.access(_existing(folder), os.W_OK):
        yield error(f"{_existing(folder)} must be writable, but is not", "name another --out")
    else:
        yield ok(f"{folder} is free")


@check("database", 65)
def database(subject: Subject) -> Iterator[Finding]:
    """Whether the database answers, and has no study of that name. Nothing is written."""
    url, workers = subject.config.runtime.storage, subject.config.runtime.workers
    if url is None:
        if workers > MANY_WRITERS:
            yield warning(
                f"{workers} workers write to one SQLite file and wait for each other",
                "runtime.storage: postgresql+psycopg://user@host/database",
            )
        else:
            yield ok("SQLite in the run's folder")
        return
    if subject.offline and urlsplit(url).hostname not in (None, *LOCAL_HOSTS):
        yield skipped("runtime.storage is on another machine")
        return
    yield _answers(url, subject.config.name)


def _answers(url: str, name: str) -> Finding:
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError

    from evomerge.secrets import hide, public_url

    shown = public_url(url)
    file = url.partition("///")[2].partition("?")[0] if url.startswith("sqlite") else ""
    if file and not Path(file).exists():
        return ok(f"{shown} will be made") if Path(file).parent.is_dir() else error(f"{shown} must be in a folder")
    try:
        engine = create_engine(url)
        try:
            with engine.connect() as connection:
                there = inspect(connection).has_table("studies")
                query = text("SELECT COUNT(*) FROM studies WHERE study_name = :name")
                taken = there and connection.execute(query, {"name": name}).scalar_one()
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError) as trouble:
        reason = hide(" ".join(str(trouble).split()))[:200]
        return error(f"the storage must be a database that can be opened, but {shown}: {reason}")
    if taken:
        return warning(f"{shown} has a study {name!r}", "resume it (--storage, --study), or rename the search")
    return ok(f"{shown} answers")


@check("libraries", 66)
def libraries(subject: Subject) -> Iterator[Finding]:
    """Whether the libraries have versions that evomerge was made for, and what the configuration needs is there."""
    from packaging.requirements import Requirement

    extras = set(_extras(subject))
    wrong = 0
    for line in requires("evomerge") or ():
        need = Requirement(line)
        own = need.marker is None or need.marker.evaluate({"extra": ""})
        extra = next((each for each in extras if need.marker is not None and need.marker.evaluate({"extra": each})), "")
        if not own and not extra:
            continue
        how = f"pip install 'evomerge[{extra}]'" if extra else f"pip install '{need.name}{need.specifier}'"
        try:
            held = version(need.name)
        except PackageNotFoundError:
            wrong += 1
            yield error(f"{need.name} must be installed, but is not", how)
            continue
        if not need.specifier.contains(held, prereleases=True):
            wrong += 1
            yield error(f"{need.name} must be {need.specifier}, but is {held}", how)
    if not wrong:
        names = ("torch", "transformers", "lm-eval", "optuna")
        yield ok(", ".join(f"{name} {version(name)}" for name in names))


def _extras(subject: Subject) -> Iterator[str]:
    """What the configuration needs beyond the dependencies."""
    runtime = subject.config.runtime
    yield from runtime.trackers
    if runtime.launcher == "ray":
        yield "ray"
    scheme = (runtime.storage or "").partition("://")[0]
    for start, extra in (("postgresql", "postgres"), ("mysql", "mysql")):
        if scheme.startswith(start) and scheme in (f"{start}+psycopg", f"{start}+pymysql"):
            yield extra


@check("workers", 67)
def workers(subject: Subject) -> Iterator[Finding]:
    """Whether workers have cores or GPUs of their own."""
    count, cores = subject.config.runtime.workers, len(os.sched_getaffinity(0))
    if subject.config.runtime.launcher == "ray":
        yield skipped(f"{count} workers: how many the cluster holds is known when it is asked for them")
    elif 0 < subject.gpus < count:
        yield warning(
            f"{count} workers share {subject.gpus} GPU{'s' * (subject.gpus != 1)}",
            "one for each GPU is fastest: candidates that share one wait for each other",
        )
    elif subject.device.type == "cpu" and count > cores:
        yield warning(f"{count} workers share {cores} cores", f"at most {cores}; one core a worker is the least")
    else:
        yield ok(f"{count} worker{'s' * (count != 1)}, {cores} cores")


@check("hub", 68)
def hub(subject: Subject) -> Iterator[Finding]:
    """Whether the hub has what is not on this machine."""
    wanted = list(dict.fromkeys(name for source in subject.sources for name in source.hub))
    if not wanted:
        yield ok("no model is taken from the hub")
        return
    if subject.offline:
        yield skipped(f"not asked for {', '.join(wanted)}")
        return
    for name in wanted:
        yield _on_hub(name)


def _on_hub(name: str) -> Finding:
    from fnmatch import fnmatch

    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from evomerge.engine.checkpoint import HUB_FILES, first_line

    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=10)
    except GatedRepoError:
        return error(f"{name} must be open to you, but is gated", "ask for access on its page, then log in")
    except RepositoryNotFoundError:
        return error(f"{name} must be a folder or a repository of the hub, but is neither")
    except Exception as trouble:
        return warning(f"the hub does not answer for {name}: {first_line(trouble)[:120]}", "or use --offline")
    size = sum(
        each.size or 0 for each in info.siblings or () if any(fnmatch(each.rfilename, kind) for kind in HUB_FILES)
    )
    return ok(f"{name} has {readable(size)} to download")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
