"""The stand-in for generation: probabilities of reference answers and of their end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import EvaluateConfig, LmEval
from tests.evaluators.conftest import QUESTIONS, random_model

Config = Callable[..., EvaluateConfig]
PROXY = {"proxy": "reference_loglikelihood"}


def value(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, ends: set[int]
) -> float:
    """By hand: the geometric mean of the tokens' probabilities and of that of any end."""
    ids = tokenizer.encode(prompt + answer)
    start = len(tokenizer.encode(prompt))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    total = sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))
    total += float(logits[-1, sorted(ends)].logsumexp(-1))
    return math.exp(total / (len(ids) - start + 1))


def newline_tokens(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    return {token for token in range(len(tokenizer)) if str(tokenizer.decode([token])).startswith("\n")}


def test_a_document_is_worth_what_its_reference_and_its_end_are(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(config({"task": "exact", "filter": "word", "weight": 2.0}, "choice", **PROXY), tokenizer)
    (metric,) = evaluator.proxies.values()
    assert (metric.task, metric.label, metric.weight, metric.higher_is_better) == (
        "exact",
        "reference_loglikelihood",
        2.0,
        True,
    )
    documents = [d for d in evaluator.documents("search") if d.task == "exact"]
    scores = evaluator.score(model, documents, proxy=True)
    assert [(score.task, score.document, score.metric) for score in scores] == [
        ("exact", document.key, "reference_loglikelihood") for document in documents
    ]
    ends = {1} | newline_tokens(tokenizer)
    for score in scores:
        (request,) = evaluator.prepared["exact"].requests[score.document]
        wanted = value(model, tokenizer, request.args[0], f" {request.doc['answer']}", ends)
        assert score.value == pytest.approx(wanted, rel=1e-4)
        assert 0 < score.value < 1


def test_in_a_chat_nothing_stands_between_prompt_and_answer(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = {"apply_chat_template": True, **PROXY}
    evaluator = LmEval(config({"task": "exact", "filter": "word"}, **settings), tokenizer)
    for score in evaluator.score(model, evaluator.documents("search")[:5], proxy=True):
        (request,) = evaluator.prepared["exact"].requests[score.document]
        assert request.args[0].endswith("<assistant>")
        ends = {1} | newline_tokens(tokenizer)
        wanted = value(model, tokenizer, request.args[0], request.doc["answer"], ends)
        assert score.value == pytest.approx(wanted, rel=1e-4)


def test_tasks_without_a_stand_in_are_scored_as_ever(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(config("choice", {"task": "exact", "filter": "word"}, **PROXY), tokenizer)
    documents = evaluator.documents("search")
    plain, proxy = evaluator.score(model, documents), evaluator.score(model, documents, proxy=True)
    assert [score for score in plain if score.task == "choice"] == [score for score in proxy if score.task == "choice"]
    assert {score.metric for score in proxy if score.task == "exact"} == {"reference_loglikelihood"}
    assert len(plain) == len(proxy)


def test_stopping_with_another_end_is_as_good(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Swapping two ends' rows in the output leaves every value as it is; swapping an end with a word does not."""
    evaluator = LmEval(config({"task": "exact", "filter": "word"}, **PROXY), tokenizer)
    documents = evaluator.documents("search")
    newline = min(newline_tokens(tokenizer))
    before = [score.value for score in evaluator.score(model, documents, proxy=True)]

    def swapped(one: int, other: int) -> list[float]:
        weight = model.lm_head.weight
        with torch.no_grad():
            weight[[one, other]] = weight[[other, one]]
            found = [score.value for score in evaluator.score(model, documents, proxy=True)]
            weight[[one, other]] = weight[[other, one]]
        return found

    assert swapped(1, newline) == pytest.approx(before, rel=1e-5)
    assert swapped(1, tokenizer.encode(" oak")[0]) != pytest.approx(before, rel=1e-2)


def task_of(folder: Path, root: Path, text: str) -> EvaluateConfig:
    questions = QUESTIONS.replace("data/", f"{folder}/base/data/").replace("doc_to_target: answer\n", "")
    (root / "own.yaml").write_text(
        f"task: own\n{questions}output_type: generate_until\n{text}"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    return EvaluateConfig.model_validate({"include_path": root, "tasks": ["own"], **PROXY})


def test_of_several_references_the_likeliest_counts(
    folder: Path, tmp_path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = 'doc_to_target: choices\ngeneration_kwargs: {until: "zz", max_gen_toks: 6}\n'
    evaluator = LmEval(task_of(folder, tmp_path, text), tokenizer)
    documents = evaluator.documents("search")[:5]
    ends = {1, *tokenizer.encode("z")}  # no token begins with the stop string as a whole
    for score in evaluator.score(model, documents, proxy=True):
        (request,) = evaluator.prepared["own"].requests[score.document]
        each = [value(model, tokenizer, request.args[0], f" {word}", ends) for word in request.doc["choices"]]
        assert score.value == pytest.approx(max(each), rel=1e-4)


@pytest.mark.parametrize("target", ["''", "\"{{' '}}\"", "gold"])
def test_a_task_without_references_has_no_stand_in(
    target: str, folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = task_of(
        folder, tmp_path, f"doc_to_target: {target}\ngeneration_kwargs: {{until: [zz], max_gen_toks: 6}}\n"
    )
    with pytest.raises(InputError, match="proxy must be null for task 'own', whose documents need a reference answer"):
        LmEval(config, tokenizer)
    LmEval(config.model_copy(update={"proxy": None}), tokenizer)


def test_nan_and_other_kinds_of_models_are_refused(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(config({"task": "exact", "filter": "word"}, **PROXY), tokenizer)
    documents = evaluator.documents("search")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = torch.nan
    with pytest.raises(CandidateError, match="logits are NaN on task 'exact'"):
        evaluator.score(model, documents, proxy=True)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2))
    with pytest.raises(InputError, match="proxy must be null for an encoder-decoder model"):
        evaluator.score(t5.eval(), documents, proxy=True)


def test_prompts_show_what_the_model_reads(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    evaluator = LmEval(config("choice", {"task": "exact", "filter": "word"}, "generate"), tokenizer)
    prompts = evaluator.prompts(2)
    assert len(prompts) == 6
    documents = [d for d in evaluator.documents("search") if d.task == "exact"]
    (request,) = evaluator.prepared["exact"].requests[documents[0].key]
    assert prompts[2] == f"Q: {request.doc['question']}\nA: {request.doc['answer']}"
    assert random_model(0).config.vocab_size > max(tokenizer.encode(json.dumps(prompts)))


def test_unusual_tokenizers_are_told(config: Config, model: LlamaForCausalLM, tokenizer: Any) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    evaluator = LmEval(config("choice"), bare)
    with pytest.raises(InputError, match="a tokenizer must have a begin or an end token"):
        evaluator.score(model, evaluator.documents("search"))
