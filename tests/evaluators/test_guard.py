from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError
from evomerge.evaluators.guard import Guard
from tests.evaluators.conftest import random_model

TEXTS = ["larch and pine and larch", "oak or pine", "a willow by the water, " * 40, "x"]


def overwrite(model: LlamaForCausalLM, factor: float) -> LlamaForCausalLM:
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)
    return model


def test_perplexity_is_that_of_each_text_alone(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    losses = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"][:256]])
        if ids.shape[1] > 1:
            with torch.no_grad():
                log_p = model(ids).logits[0, :-1].log_softmax(-1)
            losses += (-log_p.gather(-1, ids[0, 1:, None])[:, 0]).tolist()
    found = Guard(TEXTS, tokenizer, 10.0).perplexity(model)
    assert found == pytest.approx(math.exp(math.fsum(losses) / len(losses)), rel=1e-4)


def test_a_candidate_is_held_against_the_worst_source(tokenizer: PreTrainedTokenizerFast) -> None:
    guard = Guard(TEXTS, tokenizer, 3.0)
    base, expert = random_model(0), random_model(1)
    worst = max(guard.perplexity(base), guard.perplexity(expert))
    for order in ([base, expert], [expert, base]):
        guard = Guard(TEXTS, tokenizer, 3.0)
        for source in order:
            guard.refer(source)
        for factor in (1.0, 1.05, 1.2, 1.5, 2.0, 4.0, 8.0):
            candidate = overwrite(random_model(2), factor)
            times = guard.perplexity(candidate) / worst
            if times <= 3.0:
                guard.check(candidate)
                continue
            with pytest.raises(CandidateError) as caught:
                guard.check(candidate)
            assert str(caught.value) == (
                f"collapsed: perplexity {times * worst:.4g} on 3 prompts is {times:.3g} times that of the worst "
                "source; the guard allows 3"
            )
    assert times > 3.0


def test_what_is_not_finite_fails_and_is_no_bound(tokenizer: PreTrainedTokenizerFast) -> None:
    guard = Guard(TEXTS, tokenizer, 2.0)
    broken = overwrite(random_model(0), math.nan)
    guard.refer(broken)
    with pytest.raises(CandidateError, match="perplexity on 3 prompts must be finite, but is nan"):
        guard.check(broken)
    guard.check(random_model(1))  # without a source there is nothing to be held against
    guard.refer(random_model(1))
    guard.check(random_model(1))
    far = overwrite(random_model(1), 1e4)
    with pytest.raises(CandidateError, match="perplexity on 3 prompts must be finite, but is inf"):
        guard.check(far)


def test_without_texts_everything_passes(tokenizer: PreTrainedTokenizerFast) -> None:
    for texts in ([], ["", "x"]):
        guard = Guard(texts, tokenizer, 2.0)
        guard.refer(random_model(0))
        guard.check(overwrite(random_model(0), math.nan))


def test_a_tokenizer_without_an_end_token_will_do(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer)
    assert math.isfinite(Guard(TEXTS, bare, 2.0).perplexity(random_model(0)))


def test_a_model_that_fails_is_a_failed_candidate(
    tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("mat1 and mat2\nshapes")

    guard = Guard(TEXTS, tokenizer, 2.0)
    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(CandidateError, match="prompts cannot be scored: RuntimeError: mat1 and mat2 shapes"):
        guard.check(model)
