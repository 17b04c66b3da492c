"""Scores from functions of the user's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import SPLITS, EvaluateConfig, Evaluator, make_evaluator
from tests.evaluators.conftest import WORDS

Config = Callable[..., EvaluateConfig]
Build = Callable[..., Evaluator]


@pytest.fixture
def build(config: Config, tokenizer: PreTrainedTokenizerFast) -> Build:
    def made(*tasks: Any, **settings: Any) -> Evaluator:
        return make_evaluator(config(*tasks, **settings), tokenizer)

    return made


@pytest.fixture
def questions(folder: Path) -> Path:
    return folder / "base" / "data" / "test.jsonl"


def test_a_function_scores_each_document_by_each_metric(
    build: Build, questions: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    entry = {"function": "tiny_scoring:likeliest", "documents": questions, "higher_is_better": False}
    evaluator = build({**entry, "metric": "words"}, {**entry, "metric": "top", "weight": 2.0})
    assert [(task.task, task.label, task.higher_is_better, task.weight) for task in evaluator.tasks] == [
        ("likeliest", "words", False, 1.0),
        ("likeliest", "top", False, 2.0),
    ]
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    assert sum(len(evaluator.documents(split)) for split in SPLITS) == len(rows)
    documents = evaluator.documents("select")
    model.train()
    scores = evaluator.score(model, documents)
    for document, words, top in zip(documents, scores[::2], scores[1::2], strict=True):
        question = rows[document.index]["question"]
        assert (words.document, words.value) == (document.key, len(question.split()))
        with torch.no_grad():
            expected = model(torch.tensor([tokenizer(question)["input_ids"]])).logits[0, -1].max()
        assert (top.metric, top.value) == ("top", pytest.approx(float(expected), rel=1e-5))


def test_a_function_of_the_whole_model_is_called_once_for_its_weights(
    build: Build, model: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]
) -> None:
    import tiny_scoring  # type: ignore[import-not-found]

    evaluator = build("choice", {"function": "tiny_scoring:weight"}, limit=90)
    before = tiny_scoring.weight.calls
    rows = [evaluator.score(model, evaluator.documents(split), "first") for split in SPLITS]
    (value,) = {score.value for split in rows for score in split if score.task == "weight"}
    assert value == pytest.approx(float(model.lm_head.weight.detach().double().sum()))
    assert all(sum(score.task == "weight" for score in split) == 1 for split in rows)
    assert tiny_scoring.weight.calls == before + 1
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1.0
    again = evaluator.score(model, evaluator.documents("search"), "second")
    assert [s.value for s in again if s.task == "weight"] == [pytest.approx(value + 1.0)]
    evaluator.score(model, evaluator.documents("search"))
    evaluator.score(model, evaluator.documents("search"))
    assert tiny_scoring.weight.calls == before + 4
    assert capsys.readouterr().out == ""


def test_a_split_without_a_share_has_no_document(build: Build) -> None:
    evaluator = build({"function": "tiny_scoring:weight"}, splits={"search": 1.0, "select": 0.0, "report": 0.0})
    assert [len(evaluator.documents(split)) for split in SPLITS] == [1, 0, 0]


@pytest.mark.parametrize(("metric", "value"), [(None, 1.0), ("first", 1.0), ("second", 2.5)])
def test_a_metric_is_picked_from_a_table(
    metric: str | None, value: float, build: Build, model: LlamaForCausalLM
) -> None:
    evaluator = build({"function": "tiny_scoring:table", "metric": metric})
    (score,) = evaluator.score(model, evaluator.documents("search"))
    assert (score.metric, score.value) == (metric or "score", value)


def test_text_lines_are_documents_too(build: Build, tmp_path: Path, model: LlamaForCausalLM) -> None:
    lines = [f"{word} {number}" for number in range(9) for word in WORDS]
    (tmp_path / "lines.txt").write_text("\r\n".join(lines) + "\r\n\r\n")
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = [
        build({"function": "tiny_scoring:alone", "documents": tmp_path / f"lines.{end}"}) for end in ("txt", "jsonl")
    ]
    assert found[0].documents("search") == found[1].documents("search")
    assert sum(len(found[0].documents(split)) for split in SPLITS) == len(lines)


def test_a_changed_function_changes_the_fingerprint(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib
    import sys

    monkeypatch.chdir(tmp_path)  # modules beside the user's are found
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = []
    for number in (1, 22):
        (tmp_path / "own_scores.py").write_text(f"def f(model, tokenizer):\n    return {number}\n")
        importlib.invalidate_caches()
        sys.modules.pop("own_scores", None)
        found.append(build({"function": "own_scores:f"}).fingerprint())
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"function": "tiny_scoring:wieght"}, "of module 'tiny_scoring' .* but got 'wieght'; did you mean 'weight'"),
        ({"function": "tiny_scorin:weight"}, "must be in a module on sys.path or in .* ModuleNotFoundError"),
        ({"function": "tiny_broken:f"}, "importing 'tiny_broken:f' gives ModuleNotFoundError: .*gone_for_good"),
        ({"function": "tiny_scoring:number"}, "must be callable, but 'tiny_scoring:number' is a int"),
        ({"function": "tiny_scoring:likeliest"}, r"must take \(model, tokenizer\), but has missing .* 'documents'"),
        ({"function": "tiny_scoring:weight", "documents": "QUESTIONS"}, r"must take \(model, tokenizer, documents\)"),
        ({"function": "tiny_scoring:likeliest", "documents": "/gone.jsonl"}, "documents of task .* must be a file"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_called(entry: dict[str, Any], says: str, build: Build, questions: Path) -> None:
    if entry.get("documents") == "QUESTIONS":
        entry = {**entry, "documents": questions}
    with pytest.raises(InputError) as caught:
        build(entry)
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("crash", CandidateError, "function 'tiny_scoring:crash' raised ZeroDivisionError: no answer"),
        ("not_a_number", CandidateError, "scores of function .*not_a_number' must be finite, but score is nan"),
        ("text", InputError, "scores of function 'tiny_scoring:text' must be numbers, but one is a str"),
        ("listed", InputError, "scores of function 'tiny_scoring:listed' must be numbers, but one is a list"),
        ("short", InputError, r"must return one score for each of \d+ documents, but returned \d+"),
        ("alone", InputError, "must return a sequence with a score for each document, but returned a float"),
    ],
)  # fmt: skip
def test_functions_that_give_something_else(
    name: str, error: type[Exception], says: str, build: Build, questions: Path, model: LlamaForCausalLM
) -> None:
    documents = {"documents": questions} if name in {"short", "alone"} else {}
    evaluator = build({"function": f"tiny_scoring:{name}", **documents})
    with pytest.raises(error) as caught:
        evaluator.score(model, evaluator.documents("search"))
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_metrics_that_a_function_does_not_give(build: Build, questions: Path, model: LlamaForCausalLM) -> None:
    unknown = build({"function": "tiny_scoring:table", "metric": "frist"})
    with pytest.raises(InputError, match="must be one of first, second, but got 'frist'; did you mean 'first'"):
        unknown.score(model, unknown.documents("search"))
    unnamed = build(*({"function": "tiny_scoring:weight", "metric": metric} for metric in ("a", "b")))
    with pytest.raises(InputError, match="must return its 2 metrics by name, but returned a Tensor"):
        unnamed.score(model, unnamed.documents("search"))


def test_names_stand_for_one_function(build: Build, questions: Path) -> None:
    weight = {"function": "tiny_scoring:weight", "task": "mine"}
    with pytest.raises(InputError, match="but 'mine' stands for 'tiny_scoring:weight' and 'tiny_scoring:table'"):
        build(weight, {"function": "tiny_scoring:table", "task": "mine"})
    with pytest.raises(InputError, match="named once, but 'mine' with score is twice"):
        build(weight, weight)
    with pytest.raises(InputError, match="but 'choice' stands for two"):
        build("choice", {**weight, "task": "choice"})
    with pytest.raises(InputError, match="entries of evaluator 'function' must name a function, but 'choice' has none"):
        build("choice", evaluator="function")
