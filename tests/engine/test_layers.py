from __future__ import annotations

import pytest
import torch
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from evomerge.engine import Merger, check_compatible
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.layers import Place, assign, find_layers, place
from evomerge.engine.layout import layout_of
from evomerge.engine.recipe import Group
from evomerge.engine.tensors import merge_tensors
from evomerge.errors import InputError
from tests.engine.tiny import build, family, llama, recipe

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OPT_SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
LLAMA_LIKE = ({"self_attn"}, {"mlp"}, {"input_layernorm", "post_attention_layernorm"})
GEMMA_LIKE = (
    {"self_attn"},
    {"mlp"},
    {"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"},
)

ARCHITECTURES = {
    "llama": (llama(num_hidden_layers=2), "model.layers", *LLAMA_LIKE),
    "mistral": (MistralConfig(**SIZES), "model.layers", *LLAMA_LIKE),
    "qwen2": (Qwen2Config(**SIZES), "model.layers", *LLAMA_LIKE),
    "qwen3": (Qwen3Config(**SIZES, head_dim=8), "model.layers", *LLAMA_LIKE),
    "gemma2": (Gemma2Config(**SIZES, head_dim=8), "model.layers", *GEMMA_LIKE),
    "gemma3": (Gemma3TextConfig(**SIZES, head_dim=8), "model.layers", *GEMMA_LIKE),
    "phi3": (Phi3Config(**SIZES), "model.layers", *LLAMA_LIKE),
    "olmo2": (
        Olmo2Config(**SIZES),
        "model.layers",
        {"self_attn"},
        {"mlp"},
        {"post_attention_layernorm", "post_feedforward_layernorm"},
    ),
    "gpt_neox": (
        GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
        "gpt_neox.layers",
        {"attention"},
        {"mlp"},
        {"input_layernorm", "post_attention_layernorm"},
    ),
    "gpt2": (
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2),
        "transformer.h",
        {"attn"},
        {"mlp"},
        {"ln_1", "ln_2"},
    ),
    "opt": (
        OPTConfig(**OPT_SIZES),
        "model.decoder.layers",
        {"self_attn"},
        {"fc1", "fc2"},
        {"self_attn_layer_norm", "final_layer_norm"},
    ),
    "falcon": (
        FalconConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, bos_token_id=1),
        "transformer.h",
        {"self_attention"},
        {"mlp"},
        {"input_layernorm"},
    ),
    "bloom": (
        BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2),
        "transformer.h",
        {"self_attention"},
        {"mlp"},
        {"input_layernorm", "post_attention_layernorm"},
    ),
    "mixtral": (
        MixtralConfig(**SIZES, num_local_experts=4),
        "model.layers",
        {"self_attn"},
        {"block_sparse_moe"},
        {"input_layernorm", "post_attention_layernorm"},
    ),
    "qwen3_moe": (
        Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, moe_intermediate_size=8),
        "model.layers",
        *LLAMA_LIKE,
    ),
}
architectures = pytest.mark.parametrize("name", ARCHITECTURES)


@architectures
def test_layers_and_module_groups(name):
    config, layers, *groups = ARCHITECTURES[name]
    with torch.device("meta"):
        model = build_on_meta(config)
    assert find_layers(model) == (layers, 2)
    found: dict[str, set[str]] = {"attention": set(), "mlp": set(), "other": set()}
    for slot in layout_of(model).slots:
        if slot.place.layer is not None:
            found[slot.place.module].add(slot.place.path.split(".")[0])
        else:
            assert slot.place == Place(None, slot.name)
            assert slot.place.module == "other"
    assert [found["attention"], found["mlp"], found["other"]] == groups
    assert {slot.place.layer for slot in layout_of(model).slots} == {None, 0, 1}


def build_on_meta(config):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config)


@architectures
@pytest.mark.parametrize("method", ["slerp", "ties"])
def test_merged_in_memory_equals_merged_files(name, method, tmp_path):
    """Each tensor of the files merged by itself, loaded by transformers, is the candidate bit for bit."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    refs = family(tmp_path, ARCHITECTURES[name][0])[: 2 if method == "slerp" else 3]
    check_compatible(refs[0], refs[1:])
    numbers = {"t": 0.3} if method == "slerp" else {"weight": 0.7, "density": 0.4}
    merger = Merger(refs[0], refs[1:], "float32", "cpu")
    merger.apply(recipe(refs, method, **numbers))

    base, *experts = (open_checkpoint(ref) for ref in refs)
    merged = {
        key: merge_tensors(
            method, base.tensor(key), {expert.name: expert.tensor(key) for expert in experts}, numbers, name=key
        )
        for key in base.names()
    }
    target = tmp_path / "merged"
    base.pretrained_config.save_pretrained(target)
    save_file(merged, target / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).state_dict()
    live = merger.model.state_dict()
    assert live.keys() == loaded.keys()
    for key, tensor in loaded.items():
        torch.testing.assert_close(live[key], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "where", "module"),
    [
        ("model.layers.11.self_attn.q_proj.weight", Place(11, "self_attn.q_proj.weight"), "attention"),
        ("model.layers.0.self_attn_layer_norm.weight", Place(0, "self_attn_layer_norm.weight"), "other"),
        ("model.layers.0.ln_attn.bias", Place(0, "ln_attn.bias"), "other"),
        ("model.layers.0.feed_forward.w1.weight", Place(0, "feed_forward.w1.weight"), "mlp"),
        ("model.layers.0.mixer.in_proj.weight", Place(0, "mixer.in_proj.weight"), "other"),
        ("model.norm.weight", Place(None, "model.norm.weight"), "other"),
        ("vision.layers.0.attn.weight", Place(None, "vision.layers.0.attn.weight"), "other"),
    ],
)
def test_place(name, where, module):
    assert place(name, "model.layers") == where
    assert where.module == module


PLACES = {
    name: place(name, "model.layers")
    for name in (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.input_layernorm.weight",
    )
}


def test_the_first_group_that_fits_wins():
    groups = (
        Group(layers="outside"),
        Group(layers=(1, 2), modules="attention"),
        Group(modules=r"^mlp\.up"),
        Group(modules="attention"),
        Group(),
    )
    assert list(assign(groups, PLACES, 2).values()) == [0, 3, 2, 1, 4]


def test_regular_expressions_search_the_whole_name_outside_of_layers():
    assert list(assign((Group(modules=r"embed|self_attn|mlp|layernorm"),), PLACES, 2).values()) == [0] * 5
    assert assign((Group(modules=r"^model\.embed"), Group()), PLACES, 2)["model.layers.0.mlp.up_proj.weight"] == 1


def test_a_parameter_that_fits_no_group_is_an_error():
    message = r"model\.layers\.1\.input_layernorm\.weight \(in layer 1, other\) fits none"
    with pytest.raises(InputError, match=message):
        assign((Group(layers="outside"), Group(layers=(0, 1)), Group(modules="attention")), PLACES, 2)


@pytest.mark.parametrize("layers", [(0, 3), (2, 2), (1, 0), (-1, 1)])
def test_layers_out_of_range(layers):
    with pytest.raises(InputError, match=r"0 <= start < stop <= 2, but got \["):
        assign((Group(layers=layers), Group()), PLACES, 2)


def test_broken_regular_expression():
    with pytest.raises(InputError, match=r"regular expression, but got '\(mlp'"):
        assign((Group(modules="(mlp"),), PLACES, 2)


def test_ambiguous_layers_are_an_error():
    model = build(llama(num_hidden_layers=2), 0)
    model.extra = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    with pytest.raises(InputError, match=r"must have one module list of 2 decoder layers.*has model\.layers, extra"):
        find_layers(model)
