"""Generation beside lm-eval's own: the same texts, from fewer rows."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import generation
from evomerge.evaluators.batches import BatchLimit
from evomerge.evaluators.forward import Forward
from evomerge.evaluators.generation import generate
from evomerge.evaluators.greedy import decode
from evomerge.evaluators.prefix import run_root
from evomerge.evaluators.rehearsal import suits
from evomerge.evaluators.wrapper import LiveModel
from tests.evaluators.conftest import WORDS

LINE_END = 200  # its token; 129 and 104 are the bytes of an e with an accent

SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 512, "initializer_range": 0.4}
GROUPED = {**WIDE, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.4}

COVERED: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "GPT2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, **ENDS},
    "GPTNeoX": {**WIDE, **ENDS},
    "OPT": {**SMALL, "ffn_dim": 64, "max_position_embeddings": 512, "word_embed_proj_dim": 32, **ENDS, "init_std": 0.4},
    "Bloom": {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4, **ENDS},
    "Falcon": {**SMALL, "alibi": False, "multi_query": True, **ENDS},
    "FalconAlibi": {**SMALL, "alibi": True, "new_decoder_architecture": False, **ENDS},
    "Gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 8},
    "Qwen3": {**GROUPED, "head_dim": 8},
    "Mistral": {**GROUPED, "sliding_window": 8},
    "Mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
}
UNCOVERED: dict[str, dict[str, Any]] = {
    "Mamba": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **ENDS},
}
SLIDING = {"Gemma2", "Mistral"}


def make_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model that leans towards its end token, line ends and the bytes of an e with an accent."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name.removesuffix('Alibi')}Config")(**{**COVERED, **UNCOVERED}[name])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    lean(model, {1: 0.5, LINE_END: 0.5, 129: 0.5, 104: 0.5})
    return model


def lean(model: PreTrainedModel, favoured: dict[int, float]) -> None:
    """Raise the logits of some tokens by a number of standard deviations."""
    bias = torch.zeros(300)
    for token, weight in favoured.items():
        bias[token] = weight

    def raised(_module: torch.nn.Module, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits + bias.to(logits) * logits.std(-1, keepdim=True)

    model.get_output_embeddings().register_forward_hook(raised)


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, batch_size: int = 7, **settings: Any) -> LiveModel:
    return LiveModel(model, copy.deepcopy(tokenizer), batch_size, settings.get("max_length"), {})


def ask(prompts: list[str], **settings: Any) -> list[Instance]:
    settings = {"until": ["\n"], "max_gen_toks": 24, **settings}
    return [Instance("generate_until", {}, (prompt, settings), place) for place, prompt in enumerate(prompts)]


def some_prompts(count: int, seed: int = 0, longest: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


@pytest.fixture
def left_to_harness(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call left to lm-eval."""
    counts: list[int] = []
    original = generation._harness

    def counted(live: LiveModel, requests: Any) -> list[str]:
        counts.append(len(requests))
        return original(live, requests)

    monkeypatch.setattr(generation, "_harness", counted)
    return counts


class Passes:
    """The shapes of all tokens that went through a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


@pytest.mark.parametrize("name", [*COVERED, *UNCOVERED])
def test_texts_are_those_of_lm_eval(name: str, tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]) -> None:
    model = make_model(name)
    live = wrap(model, tokenizer)
    prompts = some_prompts(24)
    requests = [
        *ask(prompts[:12]),
        *ask(prompts[12:18], until=["ab", "\n\n", "é", " "], do_sample=False, temperature=0.7),
        *ask(prompts[18:], until="e", max_gen_toks=3),
    ]
    random.Random(1).shuffle(requests)
    texts = []
    for _ in range(2):
        wanted = live.generate_until(requests, disable_tqdm=True)
        texts.append(generate(Forward(model), live, requests, BatchLimit(7)))
        assert texts[-1] == wanted
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-0.8)
    assert texts[0] != texts[1]
    assert len({len(text) for text in texts[0]}) > 5
    assert bool(left_to_harness) == (name in UNCOVERED)


@pytest.mark.parametrize("name", COVERED)
def test_shared_prefixes_do_not_change_texts(
    name: str, tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]
) -> None:
    model = make_model(name)
    live, forward = wrap(model, tokenizer), Forward(model)
    shots = " ".join(some_prompts(3, seed=5)) + "\n"
    requests = ask([shots + prompt for prompt in some_prompts(15)])
    wanted = live.generate_until(requests, disable_tqdm=True)
    with torch.no_grad():
        root = run_root(forward, live.tok_encode(shots))
    passes = Passes(model)
    assert generate(forward, live, requests, BatchLimit(7), root) == wanted
    assert generate(forward, live, [*requests, *ask(["ash"])], BatchLimit(8), root)[:-1] == wanted
    assert not left_to_harness
    prefills = [length for rows, length in passes.shapes if rows == 7]
    assert prefills
    if name not in SLIDING:
        assert min(prefills[:1]) < len(root.ids)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_batches_of_any_size_and_prompts_beyond_the_context(
    batch_size: int, tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]
) -> None:
    model = make_model("Llama")
    live = wrap(model, tokenizer, batch_size, max_length=40)
    requests = ask(some_prompts(9, longest=40), max_gen_toks=20)
    lengths = [len(live.tok_encode(request.args[0])) for request in requests]
    assert min(lengths) < 20 < max(lengths)
    wanted = live.generate_until(requests, disable_tqdm=True)
    assert generate(Forward(model), live, requests, BatchLimit(batch_size)) == wanted
    assert not left_to_harness


def test_rows_that_ended_leave(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("Llama")
    lean(model, {LINE_END: 1.5})
    live = wrap(model, tokenizer, 16)
    requests = ask(some_prompts(16), max_gen_toks=60)
    generate(Forward(model), live, requests[:1], BatchLimit(1))  # the rehearsal
    needed: list[int] = []

    def counted(*args: Any) -> list[list[int]] | None:
        rows = decode(*args)
        needed.extend(map(len, rows or []))
        return rows

    monkeypatch.setattr(generation, "decode", counted)
    passes = Passes(model)
    texts = live.generate_until(requests, disable_tqdm=True)
    theirs = [rows for rows, _ in passes.shapes]
    passes.shapes.clear()
    assert generate(Forward(model), live, requests, BatchLimit(16)) == texts
    ours = [rows for rows, _ in passes.shapes]
    assert ours == sorted(ours, reverse=True)
    assert len(ours) == max(needed) <= len(theirs)
    assert len(set(needed)) > 5
    assert sum(needed) <= sum(ours) < 1.25 * sum(needed) < 0.75 * sum(theirs)


def test_a_batch_beyond_memory_is_halved(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("Llama")
    live = wrap(model, tokenizer, 8)
    requests = ask(some_prompts(13))
    wanted = live.generate_until(requests, disable_tqdm=True)

    def scarce(most: int) -> Callable[..., None]:
        def check(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            if kwargs["input_ids"].shape[0] > most:
                raise torch.OutOfMemoryError("out of memory")

        return check

    handle = model.register_forward_pre_hook(scarce(3), with_kwargs=True)
    limit = BatchLimit(8)
    assert generate(Forward(model), live, requests, limit) == wanted
    assert limit.size == 2
    handle.remove()
    model.register_forward_pre_hook(scarce(0), with_kwargs=True)
    with pytest.raises(CandidateError, match="out of memory"):
        generate(Forward(model), live, requests, limit)


def test_a_tokenizer_without_an_end_token(tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]) -> None:
    model = make_model("Llama")
    lean(model, {1: -100.0})
    requests = ask(some_prompts(10), until=["ab", "\n"])
    wanted = wrap(model, tokenizer).generate_until(requests, disable_tqdm=True)
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    live = wrap(model, endless)
    assert live.eot_token_id is None
    assert generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert not left_to_harness
    with pytest.raises(InputError, match="end token"):
        generate(Forward(model), live, ask(["ash"], do_sample=True, temperature=1.0), BatchLimit(7))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 1.0},
        {"num_beams": 2},
        {"repetition_penalty": 1.5},
        {"until": ["\n", ""]},
        {"until": ["a", "bab"]},
        {"max_length": 30, "max_gen_toks": 4},
    ],
    ids=str,
)
def test_what_the_loop_does_not_cover_is_left_to_lm_eval(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]
) -> None:
    model = make_model("Llama")
    live = wrap(model, tokenizer)
    requests = [*ask(some_prompts(5, longest=3)), *ask(some_prompts(9, longest=3), **settings)]
    torch.manual_seed(3)
    wanted = live.generate_until(requests, disable_tqdm=True)
    torch.manual_seed(3)
    assert generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert sum(left_to_harness) == 9


@pytest.mark.parametrize(
    ("settings", "covered"),
    [
        ({"repetition_penalty": 1.2}, False),
        ({"no_repeat_ngram_size": 2}, False),
        ({"suppress_tokens": [5]}, False),
        ({"min_new_tokens": 3}, False),
        ({"cache_implementation": "static"}, False),
        ({"eos_token_id": None}, False),
        ({"eos_token_id": 7}, False),
        ({"eos_token_id": [1, 7]}, True),
        ({"repetition_penalty": 1.0, "num_beams": 1, "max_length": 20}, True),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, True),
    ],
    ids=str,
)
def test_the_models_own_generation_settings(
    settings: dict[str, Any], covered: bool, tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]
) -> None:
    model = make_model("Llama")
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    live = wrap(model, tokenizer)
    requests = ask(some_prompts(9))
    wanted = live.generate_until(requests, disable_tqdm=True)
    assert generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert sum(left_to_harness) == (0 if covered else 9)


def test_special_tokens_that_lm_eval_stops_at_and_leaves_out(
    tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]
) -> None:
    """<s> does not end a row of transformers, is a stop string to lm-eval's loop, and is not in the final text."""
    model = make_model("Llama")
    lean(model, {0: 1.0})
    live = wrap(model, tokenizer)
    requests = ask(some_prompts(20), until=["\n", "<s>"])
    wanted = live.generate_until(requests, disable_tqdm=True)
    assert generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert left_to_harness


def test_prompts_without_tokens_are_left_to_lm_eval(
    tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]
) -> None:
    model = make_model("Llama")
    live = wrap(model, tokenizer)
    requests = ask(["ash", "", "oak"])
    assert generate(Forward(model), live, requests, BatchLimit(7)) == live.generate_until(requests, disable_tqdm=True)
    assert left_to_harness == [3]


def test_answers_that_leave_no_room_for_a_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("Llama")
    with pytest.raises(InputError, match="max_gen_toks must be below the model's 512 tokens, but got 512"):
        generate(Forward(model), wrap(model, tokenizer), ask(["ash"], max_gen_toks=512), BatchLimit(7))


class Shifted(transformers.LlamaForCausalLM):  # type: ignore[misc]
    """Wants something from `generate` that only its own preparation of inputs gives."""

    def prepare_inputs_for_generation(self, input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        inputs = super().prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **kwargs)
        return {**inputs, "shift": 40}

    def forward(self, input_ids: torch.Tensor, *args: Any, shift: int = 0, **kwargs: Any) -> Any:
        output = super().forward(input_ids, *args, **kwargs)
        output.logits = output.logits.roll(shift, -1)
        return output


class Remembering(transformers.LlamaForCausalLM):  # type: ignore[misc]
    """Has a memory of its own, by row: rows that leave a batch break it."""

    def forward(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(input_ids, *args, **kwargs)
        if input_ids.shape[1] > 1:
            self.first = output.logits[:, -1:].clone()
        output.logits = output.logits + self.first
        return output


@pytest.mark.parametrize("kind", [Shifted, Remembering])
def test_models_that_the_loop_does_not_suit_are_found_out(
    kind: type[PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    left_to_harness: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    model = kind(transformers.LlamaConfig(**GROUPED)).eval()
    live = wrap(model, tokenizer)
    requests = ask(some_prompts(10))
    wanted = live.generate_until(requests, disable_tqdm=True)
    with caplog.at_level(logging.WARNING, "evomerge"):
        for _ in range(2):
            assert generate(Forward(model), live, requests, BatchLimit(7)) == wanted
    assert sum(left_to_harness) == 20
    assert [kind.__name__ in record.message for record in caplog.records if record.name.startswith("evomerge")] == [
        True
    ]


@pytest.mark.parametrize("name", COVERED)
def test_half_precision_is_no_reason_for_doubt(name: str) -> None:
    model = make_model(name).to(torch.bfloat16)
    with torch.no_grad():
        assert suits(Forward(model), list(range(20, 60)))


def test_a_candidate_of_nan_decides_nothing(tokenizer: PreTrainedTokenizerFast, left_to_harness: list[int]) -> None:
    model = make_model("Llama")
    live, requests = wrap(model, tokenizer), ask(some_prompts(9))
    good = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    generate(Forward(model), live, requests, BatchLimit(7))
    model.load_state_dict(good)
    assert generate(Forward(model), live, requests, BatchLimit(7)) == live.generate_until(requests, disable_tqdm=True)
    assert not left_to_harness
