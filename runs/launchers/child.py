"""A worker in a process of its own: `python -m evomerge.runs.launchers.child`.

The order comes as a line on standard input, which stays open for as long as whoever started the worker lives: when it
is closed, the worker stops as if asked to. The outcome goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from types import FrameType

from evomerge.runs.launchers.order import Order, carry_out
from evomerge.search.interrupt import StopRequest


def main() -> None:
    """Carry out the order, and exit with its outcome's code."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print belongs into the log
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    order = Order(**json.loads(_line()))
    stop = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set:
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    threading.Thread(target=_stop_when_alone, args=(stop,), daemon=True).start()
    outcome = carry_out(order, stop)
    os.write(answer, json.dumps(asdict(outcome)).encode())
    sys.exit(outcome.code)


def _line() -> bytes:
    """The first line of standard input; nothing beyond it is read."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def _stop_when_alone(stop: StopRequest) -> None:
    while os.read(0, 1):
        pass
    stop.set()


if __name__ == "__main__":
    main()
