"""Whatever a user can get wrong is one line that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from evomerge.errors import InputError
from evomerge.evaluators import EvaluateConfig, LmEval, make_evaluator
from tests.evaluators.conftest import QUESTIONS, random_model, write_documents

Config = Callable[..., EvaluateConfig]


def refusal(config: EvaluateConfig, tokenizer: PreTrainedTokenizerFast) -> str:
    with pytest.raises(InputError) as caught:
        LmEval(config, tokenizer)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("tasks", "settings", "says"),
    [
        ([{"task": "choice", "metric": "ac"}], {}, "metric of task 'choice' .* but got 'ac'; did you mean 'acc'"),
        ([{"task": "exact", "filter": "wrd"}], {}, "filter of task 'exact' .* but got 'wrd'; did you mean 'word'"),
        (["exact"], {}, "must be named, as several give exact_match: exact_match,whole, exact_match,word"),
        (["undirected"], {}, "metric 'length' of task 'undirected' must state `higher_is_better`"),
        (["choice"], {"limit": 2}, "its 2 documents give search ., select ., report .; raise `limit`"),
        (["unsafe"], {}, "allow_unsafe_code must be true for it"),
        ([{"task": "zero_shot_only", "num_fewshot": 2}], {}, "must be 0, as its file says so, but got 2"),
        ([{"task": "choice", "num_fewshot": 21}], {}, "prompts of task 'choice' must be buildable"),
        (["choice", {"task": "choice", "metric": "acc"}], {}, "named once, but 'choice' with acc is twice"),
        (["both", "generate"], {}, "named once, but 'generate' with length is twice"),
        (
            [{"task": "choice", "num_fewshot": 1}, {"task": "choice", "metric": "acc_norm", "num_fewshot": 0}],
            {},
            "num_fewshot must be the same wherever task 'choice' is named, but got 1 and 0",
        ),
        (["choice"], {"apply_chat_template": "short"}, "must be true or false for one template, but got 'short'"),
        (
            ["choice"],
            {"evaluator": "lm_evl"},
            "evaluator must be one of .*lm_eval, but got 'lm_evl'; did you mean 'lm_eval'",
        ),
    ],
)
def test_settings_that_do_not_fit_the_tasks(
    tasks: list[Any], settings: dict[str, Any], says: str, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(InputError) as caught:
        make_evaluator(config(*tasks, **settings), tokenizer)
    assert "\n" not in str(caught.value)
    assert re.search(says, str(caught.value)), str(caught.value)


def test_an_unknown_task_is_told_the_nearest_of_the_users_own(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for name in ("naming", "counting"):
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{QUESTIONS}")
    text = refusal(EvaluateConfig.model_validate({"include_path": tmp_path, "tasks": ["nmaing"]}), tokenizer)
    assert text == (
        f"task must be one of {tmp_path} (counting, naming) or of lm-eval's own, but got 'nmaing'; "
        "did you mean 'naming'?"
    )


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"quiz.yaml": "task: quiz\n  broken: [\n"}, "task file .*quiz.yaml' must be valid YAML, but is not: "),
        ({"quiz.yaml": "- a list\n"}, "task file .*quiz.yaml' must be valid YAML, but ValueError"),
        (
            {"quiz.yaml": "task: quiz\ninclude: gone.yaml\n"},
            "include of task file .*quiz.yaml' must be a file, but 'gone.yaml'",
        ),
        ({"a.yaml": "task: quiz\n", "b.yaml": "task: quiz\n"}, "'quiz' is in '.*a.yaml' and '.*b.yaml'"),
        ({"quiz.yaml": "task: quiz\nwrong_key: 1\n" + QUESTIONS}, "task 'quiz' must load, .* TypeError: .*wrong_key"),
        ({"quiz.yaml": "task: quiz\n" + QUESTIONS.replace("test.jsonl", "gone.jsonl")}, "FileNotFoundError: .*gone"),
        ({"quiz.yaml": "task: quiz\n" + QUESTIONS.replace("test_split: test", "test_split: tset")}, "KeyError: .tset"),
        (
            {"quiz.yaml": "task: quiz\n" + QUESTIONS + "process_results: !function gone.f\n"},
            "must be in a file beside .*gone.f",
        ),
        (
            {"quiz.yaml": "task: quiz\n" + QUESTIONS + "process_results: !function here.f\n", "here.py": "x = 1\n"},
            "AttributeError: .*has no function 'f'",
        ),
        (
            {"quiz.yaml": "task: quiz\n" + QUESTIONS + "filter_list: [{name: n, filter: [{function: gone}]}]\n"},
            "task 'quiz' must load, but lm-eval says KeyError: .*gone",
        ),
        ({"quiz.yaml": "task: quiz\n" + QUESTIONS.replace("{{question}}", "{{question")}, "TemplateSyntaxError"),
    ],
)
def test_broken_task_files(
    files: dict[str, str], says: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "data").mkdir()
    write_documents(tmp_path / "data" / "train.jsonl", 5, seed=1)
    write_documents(tmp_path / "data" / "test.jsonl", 50, seed=2)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    text = refusal(EvaluateConfig.model_validate({"include_path": tmp_path, "tasks": ["quiz"]}), tokenizer)
    assert re.search(says, text), text


def test_include_path_must_be_a_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "quiz.yaml").write_text("task: quiz\n")
    for path in (tmp_path / "gone", tmp_path / "quiz.yaml"):
        config = EvaluateConfig.model_validate({"include_path": path, "tasks": ["quiz"]})
        assert refusal(config, tokenizer) == f"include_path must be an existing folder, but got '{path}'"


def test_chat_templates_must_exist_and_take_what_is_asked(
    config: Config, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    monkeypatch.setattr(tokenizer, "chat_template", strict)
    settings = {"apply_chat_template": True, "system_instruction": "Be brief."}
    assert "system_instruction must be null" in refusal(config("choice", **settings), tokenizer)
    monkeypatch.setattr(tokenizer, "chat_template", {"default": strict, "short": "x"})
    assert "did you mean 'short'" in refusal(config("choice", apply_chat_template="shrt"), tokenizer)
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert "tokenizer without a chat template" in refusal(config("choice", apply_chat_template=True), tokenizer)


@pytest.mark.parametrize(
    ("task", "positions", "vocabulary", "says"),
    [
        ("choice", 512, 100, "tokenizer must fit the model's 100 embeddings, but task 'choice' needs token"),
        ("endless", 512, 300, "max_gen_toks of task 'endless' must be below the model's 512 tokens, but is 4096"),
        ("silent", 512, 300, "answers of task 'silent' must not be empty"),
        ("pair", 512, 300, "metric 'pair' of task 'pair' must be a number on each document, but is a tuple"),
        ("absent", 512, 300, "metric of task 'absent' must be one of pair, but got 'pear'; did you mean 'pair'"),
    ],
)
def test_tasks_that_do_not_fit_the_model(
    task: str, positions: int, vocabulary: int, says: str, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(config(task), tokenizer)
    model = random_model(0, vocabulary=vocabulary, positions=positions)
    with pytest.raises(InputError) as caught:
        evaluator.score(model, evaluator.documents("search"))
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_document_of_another_evaluator_is_refused(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    (other, *_) = LmEval(config("generate"), tokenizer).documents("search")
    with pytest.raises(ValueError, match="documents must come from this evaluator"):
        LmEval(config("choice"), tokenizer).score(random_model(0), [other])
