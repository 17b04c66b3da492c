"""One thread a process: two pytest workers share two cores, and sums come out the same whatever the machine has."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("EVOMERGE_CACHE", str(Path(__file__).resolve().parents[1] / ".cache"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ("tests.servers",)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have recorded as their figures."""
    for report in (report for found in terminalreporter.stats.values() for report in found):
        if getattr(report, "when", "") == "teardown":
            for name, value in report.user_properties:
                if name == "figures":
                    terminalreporter.write_line(f"figures: {value}")
