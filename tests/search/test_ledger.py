"""The ledger: rows are kept once, by recipe, and never mixed up."""

from __future__ import annotations

import math
from pathlib import Path

from evomerge.evaluators import DocumentScore
from evomerge.search.ledger import Ledger
from evomerge.search.storage import open_storage, sqlite_url

SCORES = [DocumentScore("t", f"d{index}", "acc", float(index % 2)) for index in range(5)]


def ledger(folder: Path, study: str = "s") -> Ledger:
    return Ledger(open_storage(sqlite_url(folder / "study.db")).engine, study)


def test_rows_come_back_in_another_process_s_ledger(tmp_path: Path) -> None:
    ledger(tmp_path).record("r", 3, "search", SCORES)
    assert sorted(ledger(tmp_path).scores("r"), key=lambda score: score.document) == SCORES
    assert ledger(tmp_path).scores("r", "select") == []
    assert ledger(tmp_path).scores("other") == []


def test_a_row_is_never_doubled_or_changed(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    first.record("r", 3, "search", SCORES)
    first.record("r", 9, "search", [DocumentScore("t", "d0", "acc", 1.0), DocumentScore("t", "d9", "acc", 1.0)])
    found = {score.document: score.value for score in first.scores("r")}
    assert found["d0"] == 0.0
    assert len(found) == 6
    assert first.count("search") == 6
    assert first.widest("search") == 6


def test_studies_in_one_database_do_not_see_each_other(tmp_path: Path) -> None:
    ledger(tmp_path, "one").record("r", None, "report", SCORES)
    assert ledger(tmp_path, "two").scores("r") == []
    assert ledger(tmp_path, "two").count("report") == 0


def test_documents_count_once_whatever_metrics_they_have(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(sqlite_url(tmp_path / "study.db")).engine, "s")
    ledger.record("a", 0, "search", [DocumentScore("t", f"d{n}", metric, 1.0) for n in range(4) for metric in "xyz"])
    ledger.record("b", 1, "search", [DocumentScore("t", f"d{n}", "x", 1.0) for n in range(6)])
    ledger.record("b", 1, "search", [DocumentScore("t", f"d{n}", "cheap", 1.0) for n in range(9)])
    ledger.record("b", 1, "select", [DocumentScore("t", "d9", "x", 1.0)])
    ledger.record("base", None, "search", [DocumentScore("t", "d9", "x", 1.0)])  # no trial paid for it
    assert (ledger.count("search", besides=["cheap"]), ledger.widest("search", besides=["cheap"])) == (10, 6)
    assert (ledger.count("search"), ledger.widest("search")) == (13, 9)


def test_a_document_without_a_value_is_scored_all_the_same(tmp_path: Path) -> None:
    ledger = Ledger(open_storage(sqlite_url(tmp_path / "study.db")).engine, "s")
    rows = [DocumentScore("t", "d0", "x", math.nan), DocumentScore("t", "d1", "x", 2.5, "[-3.5, 7]")]
    ledger.record("a", 0, "search", rows)
    first, second = sorted(ledger.scores("a"), key=lambda row: row.document)
    assert math.isnan(first.value)
    assert second == rows[1]
    assert ledger.count("search") == 2
