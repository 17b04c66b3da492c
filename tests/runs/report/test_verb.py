"""`evomerge report`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from evomerge.runs.report.page import page
from tests.runs.conftest import Command
from tests.runs.report.made import Made, text_of


def test_it_writes_one_file_and_opens_it(
    finished: Path, evomerge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(typer, "launch", shown.append)
    said = evomerge("report", finished, "--open")
    assert said.code == 0
    path = finished / "report.html"
    assert f"wrote {path}" in said.out
    assert shown == [path.as_uri()]
    elsewhere = tmp_path / "here" / "it is.html"
    told = json.loads(evomerge("report", finished, "--to", elsewhere, "--json").out)
    assert told == {"report": str(elsewhere)}
    assert elsewhere.read_text().startswith("<!DOCTYPE html>")


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path, evomerge: Command) -> None:
    said = evomerge("report", tmp_path)
    assert said.code == 2
    assert len(said.error.strip().splitlines()) == 1
    assert "config.yaml" in said.error


def test_a_search_that_goes_on_after_its_end_says_so(tmp_path: Path) -> None:
    going_on = "The search goes on: this is the comparison of its last end."
    run = Made(tmp_path, trials=3).run()
    assert going_on not in text_of(page(run))
    run.study.set_user_attr("evomerge:round", {"number": 2, "trials": 40})
    assert going_on in text_of(page(run))
    run.study.set_user_attr("evomerge:finished", 2)
    assert going_on not in text_of(page(run))
