"""How far a model is from the base."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import SPLITS, EvaluateConfig, Evaluator, make_evaluator
from evomerge.evaluators.divergence import distributions, divergence
from tests.evaluators.conftest import random_model

Config = Callable[..., EvaluateConfig]


def log_probabilities(seed: int, positions: int = 3, vocabulary: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(positions, vocabulary, generator=generator)).log_softmax(-1)


def exact(log_p: torch.Tensor, log_q: torch.Tensor) -> float:
    return float((log_p.exp() * (log_p - log_q)).sum(-1).double().mean())


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_a_bucket_for_the_rest_makes_it_a_lower_bound(seed: int, top: int) -> None:
    log_p, log_q = log_probabilities(seed), log_probabilities(seed + 1)
    found = divergence(distributions(log_p.clone(), top), log_q.clone())
    assert -1e-6 <= found <= exact(log_p, log_q) + 1e-5
    if top >= log_p.shape[-1]:
        assert found == pytest.approx(exact(log_p, log_q), rel=1e-4, abs=1e-6)
    assert divergence(distributions(log_p.clone(), top), log_p.clone()) == 0.0


def test_more_tokens_apart_give_no_lower_bound() -> None:
    log_p, log_q = log_probabilities(0), log_probabilities(1)
    found = [divergence(distributions(log_p.clone(), top), log_q.clone()) for top in (1, 4, 16, 39, 40)]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_tokens_without_probability_do_not_make_it_undefined() -> None:
    log_p = torch.tensor([[0.0, -math.inf, -math.inf]])
    log_q = torch.tensor([[0.5, 0.5, 0.0]]).log()
    for top in (1, 2, 3):
        assert divergence(distributions(log_p.clone(), top), log_q.clone()) == pytest.approx(math.log(2))
        assert divergence(distributions(log_q.clone(), top), log_p.clone()) == math.inf


@pytest.fixture
def prompts(folder: Path, tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in (folder / "base" / "data" / "test.jsonl").read_text().splitlines()]
    path = tmp_path / "near.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["question"], "n": n}) + "\n" for n, row in enumerate(rows)))
    return path


@pytest.fixture
def evaluator(prompts: Path, config: Config, tokenizer: PreTrainedTokenizerFast) -> Evaluator:
    return make_evaluator(config({"kl_from_base": prompts}), tokenizer)


def test_scores_are_the_divergence_averaged_over_positions(
    evaluator: Evaluator, prompts: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    (metric,) = evaluator.tasks
    assert (metric.task, metric.label, metric.higher_is_better) == ("near", "kl", False)
    other = random_model(1)
    evaluator.refer(model)
    rows = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    documents = evaluator.documents("select")
    for document, score in zip(documents, evaluator.score(other, documents), strict=True):
        ids = torch.tensor([tokenizer(rows[document.index])["input_ids"]])
        with torch.no_grad():
            log_p, log_q = (each(ids).logits[0].log_softmax(-1) for each in (model, other))
        assert score.document == document.key
        assert score.value == pytest.approx(exact(log_p, log_q), rel=1e-4)


def test_the_base_is_at_zero_in_every_split(evaluator: Evaluator, model: LlamaForCausalLM) -> None:
    evaluator.refer(model)
    values = [s.value for split in SPLITS for chunk in evaluator.chunks(split) for s in evaluator.score(model, chunk)]
    assert len(values) == 150
    assert set(values) == {0.0}
    evaluator.refer(random_model(1))
    assert evaluator.score(model, evaluator.documents("select"))[0].value > 0


def test_the_base_comes_first(evaluator: Evaluator, model: LlamaForCausalLM) -> None:
    assert evaluator.needs_reference
    with pytest.raises(ValueError, match="refer must be called with the base before score"):
        evaluator.score(model, evaluator.documents("search"))


def test_a_base_or_candidate_without_numbers(evaluator: Evaluator, model: LlamaForCausalLM) -> None:
    evaluator.refer(model)
    broken = random_model(1)
    with torch.no_grad():
        broken.lm_head.weight[7] = math.nan
    with pytest.raises(CandidateError, match="logits are NaN on task 'near'"):
        evaluator.score(broken, evaluator.documents("search"))
    with pytest.raises(InputError, match="kl_from_base must have a base that can be scored, but logits are NaN"):
        evaluator.refer(broken)


def test_batches_have_no_part_in_it(
    prompts: Path, config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = []
    for size in ("auto", 1, 3):
        evaluator = make_evaluator(config({"kl_from_base": prompts}, batch_size=size), tokenizer)
        evaluator.refer(model)
        found.append([score.value for score in evaluator.score(random_model(1), evaluator.documents("select"))])
        if size == 3:
            monkeypatch.setattr("evomerge.evaluators.padding.LOGITS", 1)
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)


def test_a_tokenizer_without_an_end_token_will_do(
    prompts: Path, config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer)
    assert bare.eos_token is None
    evaluator = make_evaluator(config({"kl_from_base": prompts}), bare)
    evaluator.refer(model)
    assert evaluator.score(model, evaluator.documents("search"))[0].value == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("gone.txt", None, "kl_from_base of task 'gone' must be a file, but .* cannot be read"),
        ("blank.txt", " \n\n", "kl_from_base of task 'blank' must be a file with documents, but .* is empty"),
        ("rows.jsonl", '{"prompt": "a"}\n{"question": "b"}\n', "must be texts or have a `prompt`, but number 1 of"),
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": \n', "must be a file of JSON lines: line 2 of"),
    ],
)
def test_files_without_prompts(
    name: str, text: str | None, says: str, tmp_path: Path, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        make_evaluator(config({"kl_from_base": tmp_path / name}), tokenizer)


def test_entries_and_models_that_do_not_fit(
    prompts: Path, evaluator: Evaluator, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    def refusal(*tasks: Any, **settings: Any) -> str:
        with pytest.raises(InputError) as caught:
            make_evaluator(config(*tasks, **settings), tokenizer)
        return str(caught.value)

    entry = {"kl_from_base": prompts}
    assert "metric of task 'near' must be one of kl, but got 'k1'; did you mean 'kl'" in refusal(
        {**entry, "metric": "k1"}
    )
    assert "named once, but 'near' with kl is twice" in refusal(entry, entry)
    other = prompts.with_suffix(".txt")
    other.write_text("larch\n")
    assert "'near' stands for" in refusal(entry, {"kl_from_base": other})
    assert "must name a file, but 'choice' has none" in refusal("choice", evaluator="kl_from_base")
    with pytest.raises(InputError, match="prompts of task 'near' must have at most 4 tokens, but one has"):
        evaluator.refer(random_model(0, positions=4))
    with pytest.raises(InputError, match="tokenizer must fit the model's 100 embeddings, but task 'near' needs token"):
        evaluator.refer(random_model(0, vocabulary=100))
