"""Tiny random models on disk, and merging of bare tensors the way the engine does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

from evomerge.engine.compiled import Launcher
from evomerge.engine.method import METHODS, MergeMethod
from evomerge.engine.recipe import Group, ModelRef, Recipe
from evomerge.engine.statistics import OneParameter, Statistics
from evomerge.engine.tensors import merge_tensors, store_of

VOCABULARY = 64
HIDDEN = 16
PARAMETER = "model.layers.0.mlp.up_proj.weight"


def llama(**changes: Any) -> LlamaConfig:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaConfig(**{**settings, **changes})


def build(config: PretrainedConfig, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """A random model whose norms and biases are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def tokenizer(extra: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *extra, *(f"w{i}" for i in range(VOCABULARY))][:VOCABULARY]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    built = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    built.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return built


def save(folder: Path, config: PretrainedConfig, seed: int, dtype: torch.dtype = torch.float32, **how: Any) -> Path:
    build(config, seed, dtype).save_pretrained(folder, **how)
    tokenizer().save_pretrained(folder)
    return folder


def family(folder: Path, config: PretrainedConfig, dtype: torch.dtype = torch.float32, **how: Any) -> list[ModelRef]:
    """A base and three experts."""
    names = ("base", "math", "lang", "code")
    return [ModelRef(model=str(save(folder / name, config, seed, dtype, **how))) for seed, name in enumerate(names)]


def recipe(refs: Sequence[ModelRef], method: str, dtype: str = "float32", **parameters: Any) -> Recipe:
    options = parameters.pop("options", {})
    seed = parameters.pop("seed", 0)
    return Recipe(
        base=refs[0],
        experts=tuple(refs[1:]),
        method=method,
        groups=(Group(parameters=parameters),),
        options=options,
        dtype=dtype,
        seed=seed,
    )


def statistics_of(base: torch.Tensor, experts: Mapping[str, torch.Tensor], seed: int = 0) -> OneParameter:
    """The statistics of one parameter whose sources are these tensors."""
    store = store_of(base, experts, PARAMETER, torch.float32)
    return Statistics(store).of(PARAMETER, range(len(experts)), seed)


def engine_merge(
    method: MergeMethod,
    base: torch.Tensor,
    experts: Mapping[str, torch.Tensor],
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    launcher: Launcher | None = None,
) -> torch.Tensor:
    """One parameter merged by the engine, eagerly unless a launcher says otherwise; values as `defaults` gives them."""
    parameters = {
        name: dict(zip(experts, value, strict=True)) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
    return merge_tensors(
        method.name,
        base,
        experts,
        parameters,
        name=PARAMETER,
        seed=seed,
        dtype=dtype,
        launcher=launcher or Launcher(None),
    )


def defaults(method: MergeMethod, experts: int, **changes: Any) -> dict[str, Any]:
    """A value for each parameter of the method: those in `changes` that it has, else its defaults."""
    values: dict[str, Any] = {}
    for spec in method.parameters:
        value = changes.get(spec.name, spec.default)
        spread = spec.per_expert and not isinstance(value, tuple)
        values[spec.name] = (float(value),) * experts if spread else value
    return values


def every_method() -> list[MergeMethod]:
    return [METHODS.get(name) for name in METHODS.names()]
