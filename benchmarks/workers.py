"""Candidates a minute with one worker and with two, each with one thread: `benchmarks/workers.py [--case FOLDER]`.

Both are the command line, `evomerge run --workers N`: one process that scores, or two and one that watches. Rounds
alternate; the gradient, which is one worker's, is left out. Two rates are taken from each run: in the steady state,
after the first fifth of the trials, when all workers have loaded; and over the wall time of the whole command, loading
and comparison included. Prints a row a run, and one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evomerge.runs.run import open_run

ROOT = Path(__file__).resolve().parent.parent
COUNTS = (1, 2)


def measure(config: Path, folder: Path, workers: int, settings: Sequence[str]) -> dict[str, Any]:
    """One run: {workers, trials, steady, wall} with rates in candidates a minute."""
    command = [sys.executable, "-m", "evomerge", "run", str(config), "--out", str(folder), "--workers", str(workers)]
    overrides = [part for setting in settings for part in ("--set", setting)]
    began = time.perf_counter()
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        subprocess.run(
            [*command, "--device", "cpu", *overrides],
            check=True,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    seconds = time.perf_counter() - began
    trials = open_run(folder).study.get_trials(deepcopy=False)
    ended = sorted(trial.datetime_complete for trial in trials if trial.datetime_complete)
    steady = ended[len(ended) // 5 :]
    return {
        "workers": workers,
        "trials": len(ended),
        "steady": round(60 * (len(steady) - 1) / (steady[-1] - steady[0]).total_seconds(), 2),
        "wall": round(60 * len(ended) / seconds, 2),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, help="a folder with search.yaml; by default the quickstart")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], dest="settings", help="key=value over the file")
    arguments = parser.parse_args()
    config = (arguments.case or ROOT / "examples" / "quickstart") / "search.yaml"
    fixed = [f"search.trials={arguments.trials}", "search.warm_start=[uniform, experts, sweep]"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for count in COUNTS if number % 2 == 0 else reversed(COUNTS):
                place = Path(folder) / f"{number}-{count}"
                rows.append(measure(config, place, count, [*fixed, *arguments.settings]))
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    medians = {
        rate: {count: statistics.median(row[rate] for row in rows if row["workers"] == count) for count in COUNTS}
        for rate in ("steady", "wall")
    }
    ratios = {rate: round(found[2] / found[1], 3) for rate, found in medians.items()}
    print(json.dumps({"config": str(config), "rows": rows, "medians": medians, "ratio": ratios}))


if __name__ == "__main__":
    main()
