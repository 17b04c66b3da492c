"""Workers as processes of this host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from evomerge.runs.launchers.order import Order, Outcome

_MODULE = "evomerge.runs.launchers.child"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ProcessLauncher:
    """Starts a process for each order, in a session of its own: Ctrl-C reaches the watching process alone.

    Args:
        logs: a folder for ID.log of each worker.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, order: Order) -> ChildProcess:
        """Start a worker; what it says is appended to its log."""
        log = self._logs / f"{order.index}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, **dict.fromkeys(_THREADS, str(order.threads))},
                start_new_session=True,
            )
        return ChildProcess(process, order, log)

    def close(self) -> None:
        """There is nothing to give back."""


class ChildProcess:
    """A worker's process.

    Args:
        process: with pipes for input and output.
        order: is sent to it.
        log: where it says what it has to say.
    """

    def __init__(self, process: subprocess.Popen[bytes], order: Order, log: Path) -> None:
        self._process = process
        self.where = str(log)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order.as_data()).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:  # it is dead, which its outcome will say
            pass

    def outcome(self) -> Outcome | None:
        """How it ended; None: it is running."""
        code = self._process.poll()
        if code is None:
            return None
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        if said:
            return Outcome(**json.loads(said))
        return Outcome(code, f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def stop(self) -> None:
        """Ask it to stop at the next chunk of documents."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
