"""Sharing prefixes and padding on the left give what each row gets alone, or are not done: over kinds of models."""

from __future__ import annotations

import logging
import random
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from evomerge.evaluators import sharing
from evomerge.evaluators.batches import BatchLimit
from evomerge.evaluators.encode import Encoded
from evomerge.evaluators.forward import Forward, Output, PlainForward
from evomerge.evaluators.likelihoods import Likelihoods, Roots, TaskRows, alone, common_root
from evomerge.evaluators.sharing import EVERYTHING, LADDER, NOTHING, Sharing, sharing_of

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 128, "initializer_range": 0.3}
FALCON = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
OPT = {"hidden_size": 16, "ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.3, "max_position_embeddings": 128}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
ARCHITECTURES: dict[str, tuple[Any, Sharing]] = {
    "llama": (LlamaConfig(**SIZES), EVERYTHING),
    "mistral": (MistralConfig(**SIZES, sliding_window=8), LADDER[1]),
    "mistral_wide": (MistralConfig(**SIZES, sliding_window=48), EVERYTHING),
    "mixtral": (MixtralConfig(**SIZES, num_local_experts=4), EVERYTHING),
    "qwen2": (Qwen2Config(**SIZES), EVERYTHING),
    "qwen3": (
        Qwen3Config(**SIZES, head_dim=8, use_sliding_window=True, sliding_window=8, layer_types=MIXED),
        LADDER[1],
    ),
    "qwen3_moe": (
        Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
        EVERYTHING,
    ),
    "gemma2": (Gemma2Config(**SIZES, head_dim=8, sliding_window=8, layer_types=MIXED), LADDER[1]),
    "gemma3": (Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=8, layer_types=MIXED), LADDER[1]),
    "gpt_oss": (
        GptOssConfig(
            **SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, layer_types=MIXED
        ),
        LADDER[1],
    ),
    "phi3": (Phi3Config(**SIZES), EVERYTHING),
    "phi3_long": (Phi3Config(**SIZES, original_max_position_embeddings=48, rope_parameters=LONG), EVERYTHING),
    "olmo2": (Olmo2Config(**SIZES), EVERYTHING),
    "gpt_neox": (GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}), EVERYTHING),
    "gpt2": (GPT2Config(**GPT2, bos_token_id=1, eos_token_id=2), EVERYTHING),
    "opt": (OPTConfig(vocab_size=64, num_hidden_layers=3, num_attention_heads=2, **OPT), EVERYTHING),
    "falcon": (FalconConfig(**FALCON, initializer_range=0.3), EVERYTHING),
    "falcon_alibi": (FalconConfig(**FALCON, initializer_range=0.3, alibi=True), EVERYTHING),
    "bloom": (BloomConfig(vocab_size=64, hidden_size=16, n_layer=3, n_head=2, initializer_range=0.3), EVERYTHING),
    "mpt": (MptConfig(d_model=16, n_heads=2, n_layers=3, vocab_size=64, max_seq_len=128), LADDER[1]),
    "mamba": (MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4), LADDER[2]),
}


@pytest.fixture(autouse=True)
def nothing_found() -> Iterator[None]:
    sharing._found.clear()
    yield
    sharing._found.clear()


def make(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def some_task(seed: int, root: int = 18, documents: int = 9) -> TaskRows:
    """Four choices a document behind worked examples that all share, of all lengths; a choice of one token, too."""
    rng = random.Random(seed)
    begin = [rng.randrange(3, 64) for _ in range(root)]
    of_document = {}
    for number in range(documents):
        question = begin + [rng.randrange(3, 64) for _ in range(rng.randint(1, 12))]
        choices = [[rng.randrange(3, 64) for _ in range(rng.randint(1, 6))] for _ in range(4)]
        of_document[str(number)] = [(Encoded(array("i", question + choice), len(question)),) for choice in choices]
    rows = [row for requests in of_document.values() for (row,) in requests]
    return TaskRows(of_document, common_root(rows), (), 128)


def answers(task: TaskRows, model: Any, forward: Forward | None = None, size: int = 4) -> list[float] | None:
    roots = Roots()
    roots.begin(model, None)
    with torch.no_grad():
        found = Likelihoods(roots).answers(
            "task", task, list(task.of_document), forward or Forward(model), BatchLimit(size)
        )
    return None if found is None else [answer.loglikelihood for answer in found]


def plain(task: TaskRows, model: Any) -> list[float]:
    with torch.no_grad():
        found = alone(task, list(task.of_document), PlainForward(model))
    return [answer.loglikelihood for answer in found]


def rows_of(task: TaskRows) -> list[Encoded]:
    return [row for requests in task.of_document.values() for (row,) in requests]


def found_sharing(model: Any, task: TaskRows, forward: Forward | None = None) -> Sharing:
    with torch.no_grad():
        return sharing_of(forward or Forward(model), rows_of(task), task.root, task.longest)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_run_together_get_what_they_get_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config, expected = ARCHITECTURES[name]
    model = make(config)
    for seed, root in ((0, 18), (1, 2)):
        task = some_task(seed, root)
        assert len(task.root) == (18 if root == 18 else 0)
        assert answers(task, model) == pytest.approx(plain(task, model), rel=1e-4, abs=1e-4)
    assert found_sharing(model, some_task(0)) == expected
    said = [record for record in caplog.records if record.name.startswith("evomerge")]
    assert len(said) == {"mpt": 1, "mamba": 2}.get(name, 0)


class Careless(Forward):
    """A model whose attention sees padding."""

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, *args: Any, **kwargs: Any) -> Output:
        return super().__call__(ids, torch.ones_like(mask), *args, **kwargs)


class Miscounting(Forward):
    """A model whose positions count padding behind a root."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._takes.discard("position_ids")


class WithoutCache(Forward):
    """A model that keeps a state in place of keys and values."""

    def __call__(self, *args: Any, **kwargs: Any) -> Output:
        return Output(super().__call__(*args, **kwargs).logits, None)


@pytest.mark.parametrize(
    ("broken", "dtype", "expected", "says"),
    [
        (Careless, torch.float32, NOTHING, "its rows are scored as lm-eval does"),
        (Careless, torch.bfloat16, NOTHING, "its rows are scored as lm-eval does"),
        (Miscounting, torch.float32, LADDER[1], "prefixes common to all documents are not shared"),
        (WithoutCache, torch.float32, LADDER[2], "prefixes are not shared"),
        (WithoutCache, torch.bfloat16, LADDER[2], "prefixes are not shared"),
    ],
)
def test_what_a_model_gets_wrong_is_not_done(
    broken: type[Forward], dtype: torch.dtype, expected: Sharing, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(LlamaConfig(**SIZES)).to(dtype)
    task = some_task(0)
    with caplog.at_level(logging.WARNING, "evomerge"):
        assert found_sharing(model, task, broken(model)) == expected
        assert found_sharing(model, task, broken(model)) == expected
    assert len(caplog.records) == (*LADDER, NOTHING).index(expected)
    assert says in caplog.records[-1].getMessage()
    sharing._found.clear()
    assert found_sharing(model, task) == EVERYTHING


def test_a_model_of_numbers_that_are_none_is_tried_again_with_the_next_weights() -> None:
    model = make(LlamaConfig(**SIZES))
    task = some_task(0)
    weight = model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        assert found_sharing(model, task) == EVERYTHING
        assert not sharing._found
        weight.copy_(kept)
    assert found_sharing(model, task) == EVERYTHING
    assert len(sharing._found) == 1


@pytest.mark.parametrize(
    ("config", "shared"),
    [
        (MistralConfig(**SIZES, sliding_window=30), True),
        (Phi3Config(**SIZES, original_max_position_embeddings=30, rope_parameters=LONG), False),
    ],
    ids=["window", "frequencies"],
)
def test_a_batch_wider_than_the_window_or_the_frequencies_shares_less(config: Any, shared: bool) -> None:
    model, task = make(config), some_task(0)
    assert found_sharing(model, task) == EVERYTHING
    assert max(len(row.ids) for row in rows_of(task)) > 31
    passes: list[tuple[int, ...]] = []
    handle = model.register_forward_pre_hook(lambda *a: passes.append(tuple(a[2]["input_ids"].shape)), with_kwargs=True)
    got = answers(task, model)
    handle.remove()
    assert (1, 18) not in passes
    assert got == (pytest.approx(plain(task, model), rel=1e-4, abs=1e-4) if shared else None)
