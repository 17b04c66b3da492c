"""What a launcher tells a worker to do, and what the worker does."""

from __future__ import annotations

import os
import sys
import time
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import EvomergeError, InputError, InterruptedRunError
from evomerge.search.config import RuntimeConfig, SearchConfig, parse_config
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.secrets import hide

RESTARTS = 3  # of each worker


@dataclass(frozen=True)
class Order:
    """One worker's part; plain data.

    Attributes:
        index: counts the workers from 0.
        config: the search's configuration, with the URL of the database where it is none of the run's folder.
        storage: the database's URL, with its password if it has one: an order is passed on in memory alone.
        threads: that the worker computes with.
        neighbours: workers of the same host that share its memory, itself included.
        shared: a folder of this host that its processes share the sources' weights in; None: they are the worker's own.
        timeout: seconds after which no further trial is begun; None: there is no limit.
    """

    index: int
    config: dict[str, Any]
    storage: str
    threads: int
    neighbours: int
    shared: str | None = None
    timeout: float | None = None

    def as_data(self) -> dict[str, Any]:
        """The keyword arguments that make it."""
        return asdict(self)

    def within(self, seconds: float) -> Order:
        """The same for a worker that begins after so many seconds."""
        return self if self.timeout is None else replace(self, timeout=max(self.timeout - seconds, 0.0))


@dataclass(frozen=True)
class Outcome:
    """How a worker ended.

    Attributes:
        code: 0: the search has its result; 2: wrong input; 130: it was asked to stop; anything else: it died.
        error: one line, "" where there is nothing to say.
        is_final: whether beginning again would end the same way.
    """

    code: int
    error: str = ""
    is_final: bool = False


def threads_each(workers: int) -> int:
    """How many threads each of so many processes of this host computes with, OMP_NUM_THREADS at most."""
    share = max(1, cores() // workers)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(given)) if given.isdecimal() and int(given) else share


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The cores that this process may use: those that it is bound to, or as many as a container's quota pays for.

    Args:
        limit: a file with the quota and its period in microseconds, or `max` for no quota (control groups, version 2).
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return bound
    return bound if quota == "max" else max(1, min(bound, int(quota) // int(period)))


def carry_out(order: Order, stop: StopRequest) -> Outcome:
    """Work on the study until it has its result; errors become the outcome, and their tracebacks go to the log."""
    try:
        _work(parse_config(order.config, "the order"), order, stop)
    except InputError as error:
        return Outcome(2, hide(str(error)), is_final=True)
    except (InterruptedRunError, KeyboardInterrupt):
        return Outcome(130)
    except EvomergeError as error:
        return Outcome(1, hide(str(error)), is_final=True)
    except Exception as error:
        print(hide(traceback.format_exc()), file=sys.stderr, flush=True)
        return Outcome(1, hide(f"{type(error).__name__}: {' '.join(str(error).split())}"))
    return Outcome(0)


def _work(config: SearchConfig, order: Order, stop: StopRequest) -> None:
    import torch

    from evomerge.runs.joining import enter
    from evomerge.search.storage import open_storage, quiet_optuna

    torch.set_num_threads(order.threads)
    quiet_optuna()
    storage = open_storage(order.storage)
    enter(
        config,
        storage,
        Log(),
        stop,
        tells_of_models=order.index == 0,
        timeout=order.timeout,
        shared=None if order.shared is None else Path(order.shared),
        workers=order.neighbours,
    )


class Log(Listener):
    """Lines on standard error, which is the worker's log."""

    def note(self, text: str) -> None:
        """A line with the time."""
        print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)

    def stage(self, name: str, total: int, done: int) -> None:
        """A line."""
        self.note(f"stage {name}: {done} of {total}")


def device_of(runtime: RuntimeConfig, index: int) -> str:
    """The device of a worker: one GPU each, in turns, where the configuration leaves the choice.

    Raises:
        InputError: all GPUs together are one candidate's.
    """
    import torch

    if runtime.device == "balanced":
        raise InputError(f"runtime.workers must be 1 with the device balanced, but got {runtime.workers}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if runtime.device in ("auto", "cuda") and count:
        return f"cuda:{index % count}"
    return runtime.device
