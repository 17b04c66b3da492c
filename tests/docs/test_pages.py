"""What single pages promise: events have the names and keys that are documented, and the example of a tracker works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evomerge.runs.events import EventFile
from evomerge.runs.tracking import TRACKERS, Tracked
from evomerge.search.listener import TrialOutcome
from tests.docs.pages import DOCS, ROOT, blocks

WRITTEN = re.compile(r"""\bwrite\("([a-z]+)"((?:, (?:\*\*)?\w+(?:=[^,()]+(?:\([^)]*\))?)?)*)""")


def test_the_page_on_logs_has_every_event_and_its_keys() -> None:
    page = (DOCS / "logs.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", page, re.MULTILINE))
    written = [found for path in (ROOT / "runs").rglob("*.py") for found in WRITTEN.findall(path.read_text())]
    assert {name for name, _ in written} == set(rows)
    for name, arguments in written:
        for key in re.findall(r"(\w+)=", arguments):
            assert f"`{key}`" in rows[name], f"{name}: {key}"


def test_the_page_on_logs_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "NAME"
    folder.mkdir(parents=True)
    events = EventFile(folder / "events.jsonl")
    events.note("a decision")
    events.trial(TrialOutcome(0, "uniform", 0.5))
    events.trial(TrialOutcome(1, "sampler", 0.9, estimated=True))
    events.trial(TrialOutcome(2, "sampler", None, "it collapsed"))
    (block,) = [block for block in blocks(DOCS / "logs.md") if block.language == "python"]
    names: dict[str, object] = {}
    exec(block.text, names)
    assert names["best"] == 0.5


def test_the_example_of_a_tracker_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = TRACKERS.names()
    monkeypatch.setattr(TRACKERS, "_members", {name: TRACKERS.get(name) for name in known})
    (block,) = [block for block in blocks(DOCS / "trackers.md") if block.language == "python"]
    exec(compile(block.text, "trackers.md", "exec"), {})
    assert set(TRACKERS.names()) == {*known, "print"}
    opened = TRACKERS.get("print").open(Tracked("0" * 32, "name", tmp_path, {}))
    opened.log(3, {"objective": 0.5})
    opened.conclude({"winner/objective": 0.5}, {})
    opened.close("")
    assert capsys.readouterr().out.splitlines()[0] == "3 {'objective': 0.5}"
