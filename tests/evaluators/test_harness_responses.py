"""Every request of every kind of task gets the response that `lm_eval.evaluate` gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import evaluator as reference
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import (
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from evomerge.evaluators import EvaluateConfig, LmEval
from evomerge.evaluators.quiet import quiet
from tests.evaluators.conftest import CHOICE, DOCUMENTS, QUESTIONS, random_model

EVERYTHING = {"search": 1.0, "select": 0.0, "report": 0.0}

CLASSES = '''
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask


class Mixed(ConfigurableTask):
    """Two kinds of requests a document, one of them without a context."""

    def __init__(self, config=None):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc, ctx, **kwargs):
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        arguments = [("loglikelihood", (ctx, " " + word)) for word in doc["choices"][:2]]
        arguments += [("loglikelihood", ("", doc["answer"])), ("loglikelihood_rolling", (doc["question"],))]
        return [
            Instance(request_type=kind, doc=doc, arguments=given, idx=place, **kwargs)
            for place, (kind, given) in enumerate(arguments)
        ]

    def process_results(self, doc, results):
        return {"sum": sum(result if isinstance(result, float) else result[0] for result in results)}

    def aggregation(self):
        return {"sum": lambda values: sum(values) / len(values)}

    def higher_is_better(self):
        return {"sum": True}
'''

ACC = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
TASKS = {
    "choice": CHOICE + ACC,
    "fixed": CHOICE + ACC + "num_fewshot: 4\nfewshot_config: {sampler: first_n}\n",
    "drawn": CHOICE + ACC + "num_fewshot: 3\n",
    "information": CHOICE + "metric_list: [{metric: acc_mutual_info, aggregation: mean, higher_is_better: true}]\n",
    "inputs": "output_type: multiple_choice\ndoc_to_text: gold\ndoc_to_target: \"{{'is of the ' + question}}\"\n"
    "doc_to_choice: \"{{['The leaf of ' + choices[0], 'The leaf of ' + choices[1], choices[2], choices[3]]}}\"\n" + ACC,
    "letters": "output_type: multiple_choice\ndoc_to_choice: [A, B, C, D]\ndoc_to_target: gold\n" + ACC,
    "loglikelihood": "output_type: loglikelihood\n" + ACC,
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_target: \"{{(question + ' ') * 12}}\"\n"
    "metric_list: [{metric: byte_perplexity}]\n",
    "mixed": "class: !function classes.Mixed\noutput_type: loglikelihood\n"
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
}


@pytest.fixture(scope="module")
def kinds(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file for each of TASKS."""
    root = tmp_path_factory.mktemp("kinds")
    (root / "classes.py").write_text(CLASSES)
    for name, text in TASKS.items():
        questions = QUESTIONS.replace("data/", f"{folder}/base/data/")
        for key in ("doc_to_text", "doc_to_target"):
            if f"\n{key}:" in f"\n{text}":
                questions = "".join(line for line in questions.splitlines(True) if not line.startswith(key))
        (root / f"{name}.yaml").write_text(f"task: {name}\n{questions}{text}")
    return root


def expected(root: Path, task: str, model: Any, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> dict[int, Any]:
    """By place in the data: lm-eval's responses to a document's requests."""
    loaded = TaskManager(include_path=str(root), include_defaults=False).load([task])
    if loaded["tasks"][task].get_config("num_fewshot") is None:
        loaded["tasks"][task].set_config("num_fewshot", 0)
    loaded["tasks"][task].set_fewshot_seed(1234)
    with quiet():
        live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32, max_length=128)
        results = reference.evaluate(live, loaded, bootstrap_iters=0, **settings)
    return {sample["doc_id"]: sample["resps"] for sample in results["samples"][task]}


def own(evaluator: LmEval, task: str, model: Any) -> dict[int, Any]:
    documents = evaluator.documents("search")
    for chunk in evaluator.chunks("search"):
        evaluator.score(model, chunk, "weights")
    requests = evaluator.prepared[task].requests
    return {document.index: [request.resps for request in requests[document.key]] for document in documents}


def assert_same(found: dict[int, Any], wanted: dict[int, Any]) -> None:
    assert len(wanted) == len(found) == DOCUMENTS
    for index, requests in wanted.items():
        for (one,), (other,) in zip(found[index], requests, strict=True):
            pair = one if isinstance(one, tuple) else (one, False)
            target = other if isinstance(other, tuple) else (other, False)
            assert pair[0] == pytest.approx(float(target[0]), rel=1e-5, abs=1e-5)
            assert pair[1] == target[1]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_responses_are_those_of_lm_eval_whatever_the_weights(
    task: str, chat: bool, kinds: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings: dict[str, Any] = {"apply_chat_template": True, "system_instruction": "Be brief."} if chat else {}
    config = EvaluateConfig.model_validate(
        {"include_path": kinds, "tasks": [task], "splits": EVERYTHING, "max_length": 128, "racing": False, **settings}
    )
    evaluator = LmEval(config, tokenizer)
    assert_same(own(evaluator, task, model), expected(kinds, task, model, tokenizer, **settings))
    with torch.no_grad():
        for old, new in zip(model.parameters(), random_model(1).parameters(), strict=True):
            old.copy_(new)
    evaluator.score(model, evaluator.documents("search")[:1], "other weights")
    assert_same(own(evaluator, task, model), expected(kinds, task, model, tokenizer, **settings))


T5 = {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "pad_token_id": 1}
MAMBA = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize(
    "build",
    [
        lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
        lambda: MambaForCausalLM(MambaConfig(**MAMBA)),
    ],
    ids=["encoder_decoder", "state_space"],
)
def test_models_that_cannot_share_are_scored_as_well(
    build: Callable[[], Any], kinds: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    model = build().eval()
    config = EvaluateConfig.model_validate(
        {"include_path": kinds, "tasks": ["choice"], "splits": EVERYTHING, "max_length": 128}
    )
    evaluator = LmEval(config, tokenizer)
    assert_same(own(evaluator, "choice", model), expected(kinds, "choice", model, tokenizer))


def test_memory_that_runs_out_changes_no_score(
    kinds: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluateConfig.model_validate({"include_path": kinds, "tasks": ["choice"], "splits": EVERYTHING})
    before = own(LmEval(config, tokenizer), "choice", model)
    before = {index: [list(responses) for responses in requests] for index, requests in before.items()}
    forward = model.forward

    def small(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > 10:
            raise torch.OutOfMemoryError("no memory")
        return forward(*args, **kwargs)

    evaluator = LmEval(config, tokenizer)
    evaluator.score(model, evaluator.documents("search")[:2])
    monkeypatch.setattr(model, "forward", small)
    assert_same(own(evaluator, "choice", model), before)
