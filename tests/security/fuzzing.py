"""Runs readers on malformed inputs and says what became of each; a process of its own with bounds on its memory.

`python -m tests.security.fuzzing READER FIRST COUNT [READER FIRST COUNT ...]` prints one JSON object a reader.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from evomerge.errors import EvomergeError

SECONDS = 10.0
"""After so long a reader hangs. (Two cores shared with other tests: most inputs take a thousandth of it.)"""

HEADROOM = 2**30
"""Bytes of address space beyond what the process has before the first input."""

WARM_UP = 20
"""Inputs that are read before the bound on memory holds."""

Reader = Callable[[random.Random, Path], None]
"""Makes one input in a folder and reads it."""


class Hung(BaseException):
    """The time of an input is over."""


@dataclass
class Outcome:
    """What became of a reader's inputs.

    Attributes:
        inputs, accepted: how many; accepted ones were read without an error.
        errors: how many were refused, by the first words of the rule.
        crashes: [number, what was raised] of the others.
        slowest: seconds of the slowest input, and its number.
        grown: bytes that the process has grown by, at most.
    """

    reader: str
    inputs: int = 0
    accepted: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    grown: int = 0


def fuzz(name: str, reader: Reader, first: int, count: int, *, alone: bool = False) -> Outcome:
    """Read the inputs numbered from `first` on, each made anew from the reader's name and its number.

    Where the process does nothing else (`alone`), it ends when a reader hangs in C and hears no alarm.
    """
    outcome = Outcome(name)
    signal.signal(signal.SIGALRM, _hung)
    with tempfile.TemporaryDirectory(prefix="evomerge-fuzz-") as home:
        _one(Outcome(name), reader, -1, Path(home), seconds=0.0)  # imports take their time
        before = _peak()
        for number in range(first, first + count):
            if alone:
                faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
            start = time.perf_counter()
            _one(outcome, reader, number, Path(home))
            took = time.perf_counter() - start
            outcome.slowest = max(outcome.slowest, (took, number))
            outcome.inputs += 1
    if alone:
        faulthandler.cancel_dump_traceback_later()
    outcome.grown = _peak() - before
    return outcome


def _one(outcome: Outcome, reader: Reader, number: int, home: Path, seconds: float = SECONDS) -> None:
    rng = random.Random(f"{outcome.reader} {number}")
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            reader(rng, home)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.accepted += 1
    except EvomergeError as error:
        text = str(error)
        if text.isprintable() and 0 < len(text) < 3000:
            outcome.errors[_rule(text, home)] += 1
        else:
            outcome.crashes.append((number, f"a message that is not one short line: {text!r:.300}"))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also panics of libraries, which are no Exceptions
        outcome.crashes.append((number, f"{type(error).__name__}: {error!s:.300}"))


def _rule(text: str, home: Path) -> str:
    """The first words of a message behind what names the place."""
    text = text.replace(str(home), "")
    before, must, rule = text.partition(" must ")
    return f"must {rule}"[:28] if must else before[:28]


def _hung(number: int, frame: FrameType | None) -> None:
    raise Hung(f"longer than {SECONDS} s")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _bound_memory() -> None:
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, size + HEADROOM))


def main(arguments: list[str]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print what they think of their input
    from tests.security.readers import READERS, prepare

    jobs = [(arguments[place], *map(int, arguments[place + 1 : place + 3])) for place in range(0, len(arguments), 3)]
    for name, _, _ in jobs:
        prepare(name)
        fuzz(
            name, READERS[name], -WARM_UP, WARM_UP
        )  # libraries that are imported late take their space before it counts
    gc.freeze()
    _bound_memory()
    for name, first, count in jobs:
        print(json.dumps(vars(fuzz(name, READERS[name], first, count, alone=True))), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
