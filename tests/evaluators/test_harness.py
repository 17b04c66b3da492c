from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError
from evomerge.evaluators import SPLITS, EvaluateConfig, LmEval, Scores, score_split
from evomerge.evaluators.objective import objective
from tests.evaluators.conftest import CHOICE, DOCUMENTS, QUESTIONS, random_model, write_documents

Config = Callable[..., EvaluateConfig]


def test_tasks_carry_direction_weight_and_filter(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    specs = [{"task": "both", "weight": 3.0}, {"task": "exact", "metric": "exact_match,word"}]
    found = [
        (task.task, task.label, task.higher_is_better, task.weight) for task in LmEval(config(*specs), tokenizer).tasks
    ]
    assert found == [
        ("choice", "acc", True, 1.5),
        ("generate", "length", False, 1.5),
        ("exact", "exact_match,word", True, 1.0),
    ]


def test_tasks_that_shuffle_as_they_read_are_the_same_in_every_run(
    config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = LmEval(config("shuffled"), tokenizer)
    random.seed(99)
    beside = LmEval(config("shuffled_too", "shuffled"), tokenizer)
    for split in SPLITS:
        documents = tuple(document for document in beside.documents(split) if document.task == "shuffled")
        assert documents == evaluator.documents(split)
        assert beside.score(model, documents) == evaluator.score(model, documents)


def test_tasks_may_change_the_document_they_are_given(
    config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = LmEval(config("choice_loglik"), tokenizer)
    assert score_split(evaluator, model, "select") == score_split(evaluator, model, "select")


def test_a_tag_stands_for_its_tasks(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    assert [task.task for task in LmEval(config("tagged"), tokenizer).tasks] == ["choice", "generate"]


def test_shorter_answers_win_where_shorter_is_better(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    evaluator = LmEval(config("generate"), tokenizer)
    means, objectives = [], []
    for seed in range(4):
        scores = score_split(evaluator, random_model(seed), "search")
        means.append(scores.task(evaluator.tasks[0]).mean)
        objectives.append(objective(scores, evaluator.tasks))
    assert len(set(means)) > 1
    assert objectives == [-mean for mean in means]


def test_chunks_follow_the_batch_size_alone(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    everything = {"search": 1.0, "select": 0.0, "report": 0.0}
    for batch_size, expected in (("auto", [64, 64, 22]), (24, [72, 72, 6]), (100, [100, 50])):
        evaluator = LmEval(config("choice", splits=everything, batch_size=batch_size, racing=False), tokenizer)
        assert [len(chunk) for chunk in evaluator.chunks("search")] == expected


def test_scores_do_not_depend_on_what_else_is_scored(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    everything = {"search": 1.0, "select": 0.0, "report": 0.0}
    evaluator = LmEval(config("choice_loglik", "sampled", splits=everything, batch_size=16), tokenizer)
    model = random_model(0).to(torch.bfloat16)
    chunks = evaluator.chunks("search")
    forth = [score for chunk in chunks for score in evaluator.score(model, chunk)]
    back = [score for chunk in reversed(chunks) for score in evaluator.score(model, chunk)]
    assert Scores(tuple(forth)).documents == Scores(tuple(back)).documents
    shuffled = list(chunks[-1])
    random.Random(0).shuffle(shuffled)
    again = evaluator.score(model, shuffled)
    assert [score.document for score in again] == [document.key for document in shuffled]
    assert set(again) <= set(forth)


def test_sampled_answers_are_drawn_alike_for_every_candidate(
    config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = LmEval(config("sampled"), tokenizer)
    first = evaluator.score(model, evaluator.documents("search"))
    torch.manual_seed(99)
    assert evaluator.score(model, evaluator.documents("search")) == first
    assert len({score.value for score in first}) > 1


def test_data_files_lie_beside_the_task_file_from_any_working_directory(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, elsewhere = tmp_path / "tasks", tmp_path / "elsewhere"
    for place, count in ((tasks, 30), (elsewhere, 40)):
        (place / "data").mkdir(parents=True)
        write_documents(place / "data" / "train.jsonl", 5, seed=count)
        write_documents(place / "data" / "test.jsonl", count, seed=count)
    inner = QUESTIONS.replace("data/", "../data/")
    globbed = QUESTIONS.replace("test: data/test.jsonl", "test: [data/te*.jsonl]")
    below = QUESTIONS.replace("data/", "").replace("dataset_kwargs: {", "dataset_kwargs: {data_dir: data, ")
    (tasks / "inner").mkdir()
    (tasks / "inner" / "named.yaml").write_text(f"task: named\n{inner}{CHOICE}")
    (tasks / "globbed.yaml").write_text(f"task: globbed\n{globbed}{CHOICE}")
    (tasks / "below.yaml").write_text(f"task: below\n{below}{CHOICE}")
    (tasks / "group.yaml").write_text(
        f"group: grouped\ntask:\n  - named\n  - {json.dumps({'task': 'inline', **_as_dict(QUESTIONS + CHOICE)})}\n"
    )
    monkeypatch.chdir(elsewhere)
    config = EvaluateConfig.model_validate({"include_path": tasks, "tasks": ["grouped", "globbed", "below"]})
    evaluator = LmEval(config, tokenizer)
    found = [document for split in SPLITS for document in evaluator.documents(split)]
    assert {task.task for task in evaluator.tasks} == {"named", "grouped::inline", "globbed", "below"}
    for task in evaluator.tasks:
        assert sum(document.task == task.task for document in found) == 30


def _as_dict(text: str) -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_the_later_include_path_wins(tmp_path: Path, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_documents(tmp_path / "few.jsonl", 20, seed=3)
    few = QUESTIONS.replace("data/train.jsonl", "few.jsonl").replace("data/test.jsonl", "few.jsonl")
    (tmp_path / "choice.yaml").write_text(f"task: choice\n{few}{CHOICE}")
    for paths, expected in (([folder, tmp_path], 20), ([tmp_path, folder], DOCUMENTS)):
        evaluator = LmEval(EvaluateConfig.model_validate({"include_path": paths, "tasks": ["choice"]}), tokenizer)
        assert sum(len(evaluator.documents(split)) for split in SPLITS) == expected


def test_prompts_too_long_for_the_model_are_cut_aloud(
    config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = LmEval(config({"task": "generate", "num_fewshot": 2}, max_length=48), tokenizer)
    with caplog.at_level(logging.WARNING, "evomerge"):
        for chunk in evaluator.chunks("search"):
            evaluator.score(model, chunk)
            evaluator.score(model, chunk)
    (record,) = [record for record in caplog.records if record.name.startswith("evomerge")]
    assert "requests of task 'generate' exceed the model's 48 tokens and lose their beginning" in record.getMessage()


def test_worked_examples_from_the_scored_documents_are_pointed_out(
    config: Config, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "evomerge"):
        LmEval(config({"task": "choice", "num_fewshot": 1}, "no_training"), tokenizer)
        assert not caplog.records
        LmEval(config({"task": "no_training", "num_fewshot": 1}), tokenizer)
    assert "draws them from the documents it is scored on" in caplog.text


@pytest.mark.parametrize("task", ["choice", "generate"])
def test_nan_logits_end_the_candidate_and_not_the_evaluator(
    task: str, config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = LmEval(config(task), tokenizer)
    documents = evaluator.documents("search")
    before = evaluator.score(model, documents)
    weight = model.model.layers[1].mlp.up_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 5] = torch.nan
    with pytest.raises(CandidateError, match=f"logits are NaN on task '{task}'"):
        evaluator.score(model, documents)
    with torch.no_grad():
        weight.copy_(kept)
    assert evaluator.score(model, documents) == before
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("no memory"), "out of memory with batch_size 1; take a device"),
        (RuntimeError("mat1 and mat2\nshapes"), "'choice' cannot be scored: RuntimeError: mat1 and mat2 shapes"),
        (IndexError("index out of range"), "'choice' cannot be scored: IndexError: index out of range"),
    ],
)
def test_failures_inside_of_a_model_end_the_candidate(
    error: Exception,
    says: str,
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator = LmEval(config("choice"), tokenizer)

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(CandidateError) as caught:
        evaluator.score(model, evaluator.documents("search"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_fails_on_an_answer_ends_the_candidate(
    config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = LmEval(config("crash"), tokenizer)
    with pytest.raises(CandidateError, match="task 'crash' failed on a response: ZeroDivisionError: no answer"):
        evaluator.score(model, evaluator.documents("search"))


def test_an_interruption_passes_and_leaves_everything_usable(
    config: Config, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = LmEval(config("choice"), tokenizer)
    before = evaluator.score(model, evaluator.documents("search"))

    def interrupt(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluator.score(model, evaluator.documents("search"))
    assert evaluator.score(model, evaluator.documents("search")) == before


def test_nothing_is_printed_and_global_generators_stay_where_they_were(
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    capfd: pytest.CaptureFixture[str],
) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    settings = {"splits": {"search": 1.0, "select": 0.0, "report": 0.0}}
    evaluator = LmEval(
        config("choice_loglik", {"task": "generate", "num_fewshot": 1}, "sampled", **settings), tokenizer
    )
    evaluator.score(model, evaluator.documents("search"))
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    out, err = capfd.readouterr()
    assert out == ""
    assert set(err.splitlines()) == {"a task that talks"}
    assert tokenizer.pad_token is None


def test_another_process_prepares_and_scores_the_same(
    config: Config, folder: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = config("both", {"task": "exact", "filter": "word"}, "sampled", limit=60)
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from evomerge.evaluators import EvaluateConfig, LmEval, score_split\n"
        "torch.set_num_threads(1)\n"
        "folder, config = sys.argv[1:]\n"
        "evaluator = LmEval(EvaluateConfig.model_validate_json(config), AutoTokenizer.from_pretrained(folder))\n"
        "scores = score_split(evaluator, AutoModelForCausalLM.from_pretrained(folder), 'search')\n"
        "print(evaluator.fingerprint(), evaluator.chunks('report'), scores)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), spec.model_dump_json()],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    evaluator = LmEval(spec, tokenizer)
    scores = score_split(evaluator, model, "search")
    assert done.stdout.strip() == f"{evaluator.fingerprint()} {evaluator.chunks('report')} {scores}"


def test_the_fingerprint_is_of_all_that_scores_depend_on(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"limit": 100},
        {"batch_size": 8},
        {"max_length": 100},
        {"system_instruction": "Be brief."},
        {"splits": {"search": 0.5, "select": 0.1, "report": 0.4}},
    ]
    found = [LmEval(config("choice", **each), tokenizer).fingerprint() for each in settings]
    found.append(LmEval(config({"task": "choice", "metric": "acc_norm"}), tokenizer).fingerprint())
    found.append(LmEval(config({"task": "choice", "num_fewshot": 1}), tokenizer).fingerprint())
    assert len(set(found)) == len(found)
    assert LmEval(config("choice"), tokenizer).fingerprint() == found[0]
