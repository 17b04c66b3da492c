"""transformers' continuous batching beside batched generation."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from evomerge.evaluators import continuous, generation
from evomerge.evaluators.batches import BatchLimit
from evomerge.evaluators.forward import Forward
from tests.evaluators.test_generation import LINE_END, ask, lean, make_model, some_prompts, wrap


@pytest.fixture
def left_to_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call left to batched generation."""
    counts: list[int] = []
    original = generation.generate

    def counted(forward: Any, live: Any, requests: Any, *rest: Any) -> list[str]:
        counts.append(len(requests))
        return original(forward, live, requests, *rest)

    monkeypatch.setattr(generation, "generate", counted)
    return counts


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Mistral"])
def test_texts_follow_the_weights(name: str, tokenizer: PreTrainedTokenizerFast, left_to_batches: list[int]) -> None:
    model = make_model(name)
    live, forward = wrap(model, tokenizer), Forward(model)
    shots = " ".join(some_prompts(3, seed=5)) + "\n"
    prompts = [shots + prompt for prompt in some_prompts(10)]
    requests = [*ask(prompts[:7]), *ask(prompts[7:], until=["ab", "é"], max_gen_toks=9)]
    probe = torch.arange(20, 60)[None]
    texts = []
    for _ in range(2):
        wanted = live.generate_until(requests, disable_tqdm=True)
        with torch.no_grad():
            before = model(probe).logits
        texts.append(continuous.generate(forward, live, requests, BatchLimit(4)))
        assert texts[-1] == wanted
        with torch.no_grad():
            assert torch.equal(model(probe).logits, before)
            for parameter in model.parameters():
                parameter.mul_(-0.8)
    assert texts[0] != texts[1]
    assert not left_to_batches


def test_what_it_does_not_cover_is_left_to_batches(
    tokenizer: PreTrainedTokenizerFast, left_to_batches: list[int]
) -> None:
    model = make_model("Llama")
    lean(model, {0: 1.0, LINE_END: -1.0})
    live = wrap(model, tokenizer)
    strange = ask(some_prompts(9), until=["\n", "<s>"])
    for requests in (strange, ask(["ash", ""]), ask(["ash", "oak"], num_beams=2)):
        wanted = live.generate_until(requests, disable_tqdm=True)
        assert continuous.generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert left_to_batches == [9, 2, 2]


def test_a_failure_is_told_and_made_good(
    tokenizer: PreTrainedTokenizerFast, left_to_batches: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model("Llama")
    live = wrap(model, tokenizer)
    requests = ask(some_prompts(5))
    wanted = live.generate_until(requests, disable_tqdm=True)

    def scarce(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        rows, length = kwargs["input_ids"].shape
        if rows == 1 < length:  # all prompts in one row
            raise torch.OutOfMemoryError("out of memory")

    model.register_forward_pre_hook(scarce, with_kwargs=True)
    with caplog.at_level(logging.WARNING, "evomerge"):
        assert continuous.generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert left_to_batches == [5]
    assert "continuous batching failed on 5 of 5 prompts" in caplog.text
    assert model.config._attn_implementation == "sdpa"
