"""Documents won and lost, and the texts that stay with the study."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric
from evomerge.evaluators.texts import DocumentText
from evomerge.search.examples import (
    ANSWER,
    EACH,
    EXAMPLES,
    IN_ALL,
    PROMPT,
    best_source,
    compared,
    keep_examples,
    outcome_counts,
    outcomes,
    read_examples,
)
from tests.search.finals import Final

HIGHER, LOWER = TaskMetric("left", "acc"), TaskMetric("left", "acc", higher_is_better=False)


def scores(**values: float) -> Scores:
    return Scores(tuple(DocumentScore("left", key, "acc", value) for key, value in values.items()))


def test_outcomes_follow_the_metrics_direction() -> None:
    ours = scores(a=1, b=0, c=1, d=0, e=0.5, f=math.nan, g=1)
    theirs = scores(a=0, b=1, c=1, d=0, e=0.5, f=1)
    found = {"a": "won", "b": "lost", "c": "both", "d": "neither", "e": "equal"}
    assert outcomes(ours, theirs, HIGHER) == found
    turned = {"won": "lost", "lost": "won", "both": "neither", "neither": "both", "equal": "equal"}
    assert outcomes(ours, theirs, LOWER) == {key: turned[outcome] for key, outcome in found.items()}


@pytest.fixture
def final(tmp_path: Path) -> Final:
    made = Final(tmp_path)
    made.add(0.6, 0.6)
    made.add(0.1, 0.1)
    return made


def kept(final: Final, result: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    keep_examples(final.run.problem, final.run.study, final.run.ledger, result)
    return read_examples(final.run.study.user_attrs)


def test_a_few_of_each_task_are_kept_with_what_both_got(final: Final) -> None:
    result = final.compare()
    rival, examples = kept(final, result)
    assert rival == best_source(final.config, result)
    assert rival in ("base", "a", "b")
    winner, other = compared(final.config, final.run.study, final.run.ledger, result, rival)
    counts = outcome_counts(final.run.study, winner, other)
    kinds = [(example["title"], example["outcome"]) for example in examples]
    for title, row in counts.items():
        assert sum(row.values()) == 100
        for outcome in ("won", "lost"):
            assert kinds.count((title, outcome)) == min(EACH, row[outcome])  # type: ignore[index]
    for example in examples:
        assert example["prompt"] == f"document {example['document']} of {example['title']}"
        assert example["document"].startswith("report")
        assert (example["winner"] > example["rival"]) == (example["outcome"] == "won")
    assert kinds[: len(set(kinds))] == list(dict.fromkeys(kinds))  # one of each kind before the second of any
    json.dumps(examples)


def test_long_texts_keep_their_end_and_say_what_is_missing(final: Final, monkeypatch: pytest.MonkeyPatch) -> None:
    def long(document: Document) -> DocumentText:
        return DocumentText("shots " * 1000 + "the question", "x" * (ANSWER + 7))

    monkeypatch.setattr(final.run.evaluator, "text", long)
    _, examples = kept(final, final.compare())
    assert examples
    for example in examples:
        assert example["prompt"].endswith("the question")
        assert len(example["prompt"]) == PROMPT
        assert example["cut"] == 6012 - PROMPT
        assert example["expected"].endswith("(7 more characters)")
    assert len(examples) <= IN_ALL


def test_evaluators_without_texts_leave_none(final: Final, monkeypatch: pytest.MonkeyPatch) -> None:
    result = final.compare()
    monkeypatch.setattr(final.run.evaluator, "text", lambda document: None)
    assert kept(final, result)[1] == []
    monkeypatch.undo()
    monkeypatch.delattr(type(final.run.evaluator), "text")
    final.run.study.set_user_attr(EXAMPLES, {})
    assert kept(final, result)[1] == []


def test_studies_from_before_have_none() -> None:
    assert read_examples({}) == ("", [])
