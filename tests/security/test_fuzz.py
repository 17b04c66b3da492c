"""Malformed inputs to every reader: each is refused in one line or read, within bounds of time and memory.

The whole of it is `pytest -m exhaustive tests/security -s`, which prints what became of the inputs, reader by reader.
An input is made again by `python -m tests.security.fuzzing READER NUMBER 1`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.security.fuzzing import HEADROOM, fuzz
from tests.security.readers import READERS, prepare

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {
    "header": 24_000,
    "index": 12_000,
    "config_json": 5_000,
    "adapter": 12_000,
    "gguf": 12_000,
    "recipe": 9_000,
    "mergekit": 8_000,
    "search_config": 8_000,
    "database": 8_000,
    "task_file": 5_000,
    "documents": 5_000,
    "tokenizer": 4_000,
    "template": 5_000,
}
SLOW = ("config_json", "tokenizer")  # of which transformers reads what passes
PROCESSES = 2


@pytest.mark.parametrize("name", sorted(READERS))
def test_malformed_inputs_are_refused_in_one_line(name: str) -> None:
    prepare(name)
    outcome = fuzz(name, READERS[name], 0, 25 if name in SLOW else 80)
    assert outcome.crashes == []
    assert outcome.errors.total() > outcome.inputs // 5, "hardly anything was malformed"
    assert outcome.accepted, "nothing was so little spoiled that it could be read"


def test_an_input_is_a_function_of_its_number() -> None:
    first, again = (fuzz("recipe", READERS["recipe"], 40, 30) for _ in range(2))
    assert (first.accepted, first.errors) == (again.accepted, again.errors)


@pytest.mark.exhaustive
def test_a_hundred_thousand_malformed_inputs() -> None:
    assert set(COUNTS) == set(READERS)
    assert sum(COUNTS.values()) >= 100_000
    start = time.perf_counter()
    shares = [
        [text for name, count in COUNTS.items() for text in (name, str(part * (count // 2)), str(count // 2))]
        for part in range(PROCESSES)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.security.fuzzing", *share],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for share in shares
    ]
    printed = [process.communicate()[0] for process in processes]
    outcomes = [json.loads(line) for out in printed for line in out.splitlines()]
    print(_table(outcomes, time.perf_counter() - start))
    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert sum(outcome["inputs"] for outcome in outcomes) == sum(COUNTS.values())
    assert [(o["reader"], *crash) for o in outcomes for crash in o["crashes"]] == []
    assert max(outcome["grown"] for outcome in outcomes) < HEADROOM


def _table(outcomes: list[dict[str, Any]], seconds: float) -> str:
    """What became of the inputs, a line a reader."""
    lines = ["", f"{'reader':<14}{'inputs':>8}{'accepted':>9}{'refused':>8}{'crashes':>8}{'slowest':>9}{'grown':>8}"]
    for name in COUNTS:
        own = [outcome for outcome in outcomes if outcome["reader"] == name]
        kinds = {kind for outcome in own for kind in outcome["errors"]}
        lines.append(
            f"{name:<14}{sum(o['inputs'] for o in own):>8}{sum(o['accepted'] for o in own):>9}"
            f"{sum(sum(o['errors'].values()) for o in own):>8}{sum(len(o['crashes']) for o in own):>8}"
            f"{max(o['slowest'][0] for o in own):>7.2f} s{max(o['grown'] for o in own) >> 20:>5} MB"
            f"  {len(kinds)} kinds of errors"
        )
    total = sum(outcome["inputs"] for outcome in outcomes)
    return "\n".join([*lines, f"{total} inputs in {seconds:.0f} s"])
