"""Every document's score is what `lm_eval.evaluate` gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import evaluator as reference
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.evaluators import SPLITS, EvaluateConfig, LmEval
from tests.evaluators.conftest import DOCUMENTS, random_model

Config = Callable[..., EvaluateConfig]


def reference_scores(
    task: str,
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    num_fewshot: int = 0,
    **settings: Any,
) -> list[dict[str, Any]]:
    """lm-eval's own samples of a task, run where it finds the data files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "base")
        loaded = TaskManager(include_path=str(folder), include_defaults=False).load([task])
        for each in loaded["tasks"].values():
            each.set_config("num_fewshot", num_fewshot)
            each.set_fewshot_seed(1234)
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32)
        results = reference.evaluate(wrapped, loaded, bootstrap_iters=0, **settings)
    samples: list[dict[str, Any]] = results["samples"][task]
    return samples


def own_scores(evaluator: LmEval, model: LlamaForCausalLM) -> dict[str, dict[int, float]]:
    """By metric label and place in the data, over all splits."""
    found: dict[str, dict[int, float]] = {}
    for split in SPLITS:
        documents = {(document.task, document.key): document for document in evaluator.documents(split)}
        for score in evaluator.score(model, documents.values()):
            found.setdefault(score.metric, {})[documents[score.task, score.document].index] = score.value
    return found


CASES = [
    pytest.param({"task": "choice"}, {}, "acc", "none", id="multiple_choice"),
    pytest.param({"task": "choice", "metric": "acc_norm"}, {}, "acc_norm", "none", id="second_metric"),
    pytest.param({"task": "choice", "num_fewshot": 3}, {}, "acc", "none", id="few_shot"),
    pytest.param({"task": "generate", "metric": "checksum"}, {}, "checksum", "none", id="generate_until"),
    pytest.param({"task": "generate", "metric": "checksum", "num_fewshot": 2}, {}, "checksum", "none", id="gen_shots"),
    pytest.param({"task": "exact", "filter": "word"}, {}, "exact_match", "word", id="filter"),
    pytest.param({"task": "tries", "metric": "checksum"}, {}, "checksum", "all", id="repeats"),
    pytest.param({"task": "loglikelihood", "metric": "acc"}, {}, "acc", "none", id="loglikelihood"),
    pytest.param(
        {"task": "generate", "metric": "checksum", "num_fewshot": 2},
        {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Be brief."},
        "checksum",
        "none",
        id="chat_turns",
    ),
    pytest.param({"task": "choice", "num_fewshot": 1}, {"apply_chat_template": True}, "acc", "none", id="chat"),
    pytest.param({"task": "choice"}, {"system_instruction": "Choose well."}, "acc", "none", id="system"),
]


@pytest.mark.parametrize(("spec", "settings", "metric", "filter_name"), CASES)
def test_scores_equal_those_of_lm_eval(
    spec: dict[str, Any],
    settings: dict[str, Any],
    metric: str,
    filter_name: str,
    config: Config,
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    evaluator = LmEval(config(spec, **settings), tokenizer)
    label = metric if filter_name == "none" else f"{metric},{filter_name}"
    for seed in (None, 1):
        if seed is not None:
            with torch.no_grad():
                for old, new in zip(model.parameters(), random_model(seed).parameters(), strict=True):
                    old.copy_(new)
        samples = reference_scores(
            spec["task"], folder, model, tokenizer, num_fewshot=spec.get("num_fewshot", 0), **settings
        )
        expected = {sample["doc_id"]: sample[metric] for sample in samples if sample["filter"] == filter_name}
        assert len(expected) == DOCUMENTS
        assert own_scores(evaluator, model)[label] == expected


def test_loglikelihoods_agree_to_rounding(
    config: Config, folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(config("choice_loglik"), tokenizer)
    samples = reference_scores("choice_loglik", folder, model, tokenizer)
    expected = {sample["doc_id"]: sample["loglik"] for sample in samples}
    assert own_scores(evaluator, model)["loglik"] == pytest.approx(expected, rel=1e-5)


def test_two_metrics_of_a_task_come_from_the_same_forward_passes(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    one = LmEval(config("choice"), tokenizer)
    one.score(model, one.documents("search"))
    for_one = len(passes)
    both = LmEval(config("choice", {"task": "choice", "metric": "acc_norm"}), tokenizer)
    scores = both.score(model, both.documents("search"))
    handle.remove()
    assert len(passes) == 2 * for_one
    assert {score.metric for score in scores} == {"acc", "acc_norm"}


def test_worked_examples_do_not_change_with_the_limit(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    spec = {"task": "generate", "metric": "checksum", "num_fewshot": 2}
    whole = own_scores(LmEval(config(spec), tokenizer), model)["checksum"]
    part = own_scores(LmEval(config(spec, limit=40), tokenizer), model)["checksum"]
    assert len(part) == 40
    assert part == {index: whole[index] for index in part}


def test_a_named_chat_template_is_the_one_that_is_used(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LmEval(config("generate", apply_chat_template=True), tokenizer).fingerprint()
    other = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", {"default": tokenizer.chat_template, "short": other})
    assert LmEval(config("generate", apply_chat_template=True), tokenizer).fingerprint() == plain
    named = LmEval(config("generate", apply_chat_template="short"), tokenizer)
    assert named.fingerprint() != plain
    (request,) = named.prepared["generate"].requests[named.documents("search")[0].key]
    assert request.args[0].startswith("[Q: ")
