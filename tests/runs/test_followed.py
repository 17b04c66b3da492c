"""A whole search that is followed: by trackers, and by whoever reads its standard error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evomerge.runs.run import open_run
from tests.runs.conftest import CONFIG, start_process

SMALL = [
    *("--trials", "6", "--device", "cpu", "--set", "evaluate.limit=24", "--set", "search.finalists=1"),
    *("--set", "runtime.trackers=[tensorboard, mlflow]"),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", [1, 2])
def test_trackers_and_lines_of_json_have_every_trial(workers: int, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    process = start_process(
        "--log-format", "json", "run", CONFIG, "--out", folder, "--workers", workers, "--json", *SMALL
    )
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    told = [json.loads(line) for line in error.splitlines()]
    assert all({"time", "event"} <= set(line) for line in told)
    assert [line for line in told if line["event"] == "note" and "tracker" in line["text"]] == []
    trials = {trial.number: trial.value for trial in open_run(folder).study.get_trials() if trial.value is not None}
    assert {line["number"] for line in told if line["event"] == "trial"} == set(trials)
    assert [line["done"] for line in told if line["event"] == "progress" and line["stage"] == "search"][-1] == 6
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert {each.step: each.value for each in events.Scalars("objective")} == pytest.approx(trials)
    winner = json.loads(out)["comparison"]["winner"]
    assert events.Scalars("result/winner/objective")[-1].value == pytest.approx(winner["objective"])
    assert {path.name for path in folder.glob(".*.sent")} == {".mlflow.sent", ".tensorboard.sent"}


@pytest.mark.exhaustive
def test_an_error_is_a_line_of_json_too(tmp_path: Path) -> None:
    process = start_process("--log-format", "json", "run", tmp_path / "none.yaml")
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    (line,) = error.splitlines()
    assert {**json.loads(line), "time": 0, "text": ""} == {"time": 0, "event": "error", "text": "", "code": 2}
