"""How far a search's forecast is off: runs it, and compares what was expected when it began with what it took.

    python benchmarks/forecast.py CONFIG [--cpu] [--set search.trials=40]

Prints a table and, last, one JSON object: the factor by which each forecast was missed, took over expected. With
`--cpu` seconds are the processor's, which other processes change little; use one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from evomerge.runs.doctor.forecast import ACTUAL, FORECAST
from evomerge.runs.launch import start
from evomerge.runs.run import Run
from evomerge.runs.status import status
from evomerge.search.config import load_config

PARTS = ("merge", "score", "sampler", "total", "wall")


def compared(run: Run) -> dict[str, tuple[float, float]]:
    """What was expected and what it took, by part: seconds, documents, bytes."""
    expected, took = run.study.user_attrs[FORECAST], run.study.user_attrs[ACTUAL]
    told = status(run)
    seconds = {**told["seconds"], **took["seconds"]}
    pairs = {part: (expected["seconds"][part], seconds[part]) for part in PARTS}
    pairs["documents"] = (expected["documents"], told["documents"]["scored"])
    pairs |= {place: (expected["memory"][place], took["memory"][place]) for place in took.get("memory", {})}
    return pairs


def main() -> None:
    """Run a search in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.cpu:
        time.perf_counter = time.time = time.process_time  # what seconds are taken from
    with tempfile.TemporaryDirectory() as folder:
        run = start(load_config(options.config, options.settings), Path(folder) / "run")
        found = compared(run)
    print("what | expected | took | factor\n---|---|---|---")
    factors: dict[str, Any] = {}
    for what, (expected, took) in found.items():
        factors[what] = round(took / expected, 2) if expected else None
        print(f"{what} | {expected:,.1f} | {took:,.1f} | {factors[what]}")
    print(json.dumps(factors))


if __name__ == "__main__":
    main()
