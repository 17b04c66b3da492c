"""The embedded example with few documents, and the command line called in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from evomerge.runs.cli import main

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
CONFIG = str(Path(__file__).with_name("search.yaml"))
SMALL = [
    *("--set", "evaluate.limit=40", "--set", "search.trials=13", "--set", "search.finalists=2"),
    *("--set", "search.sampler=cmaes", "--device", "cpu"),
]


class Said(NamedTuple):
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    error: str


Command = Callable[..., Said]


@pytest.fixture
def evomerge(capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(int(stopped.value.code or 0), captured.out, captured.err)

    return call


def start_process(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small search that nothing stopped."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    (folder / "stdout").write_text(out)
    return folder
