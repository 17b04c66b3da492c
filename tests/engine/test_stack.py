"""Stacked layers: live, restored, and written as an ordinary checkpoint."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from accelerate import dispatch_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from evomerge.engine.layout import layout_of
from evomerge.engine.recipe import MERGED, Recipe, StackLayer
from evomerge.engine.stack import FOLDS, Restacker
from evomerge.errors import CandidateError, InputError
from tests.engine.tiny import build, llama

DEPTH = 4
ORDER = (0, 2, 1, 1, 3, 2)
SCALES = (0.8, 1.1, 0.9, 1.2, 0.7, 1.05)
ONES = (1.0,) * len(ORDER)
SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": DEPTH, "n_head": 2, "n_positions": 32, "eos_token_id": 2}
BLOOM = {"vocab_size": 64, "hidden_size": 16, "n_layer": DEPTH, "n_head": 2}
MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
ARCHITECTURES = {
    "llama": llama(num_hidden_layers=DEPTH),
    "mistral": MistralConfig(**SIZES, sliding_window=4),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8, use_sliding_window=True, sliding_window=4, layer_types=MIXED),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
    "phi3": Phi3Config(**SIZES),
    "gpt_oss": GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4, layer_types=MIXED
    ),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gemma2": Gemma2Config(**SIZES, head_dim=8, sliding_window=4, layer_types=MIXED),
    "gemma3_text": Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4, layer_types=MIXED),
    "granite": GraniteConfig(**SIZES, residual_multiplier=0.5, embedding_multiplier=3.0),
    "cohere": CohereConfig(**SIZES),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1, 1]),
    "olmo2": Olmo2Config(**SIZES),
    "olmo3": Olmo3Config(**SIZES, sliding_window=4, layer_types=MIXED),
    "gpt2": GPT2Config(**GPT2, bos_token_id=1),
    "gpt_neox": GPTNeoXConfig(**{key: value for key, value in SIZES.items() if key != "num_key_value_heads"}),
    "falcon": FalconConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=DEPTH, num_attention_heads=2, bos_token_id=1, eos_token_id=2
    ),
    "bloom": BloomConfig(**BLOOM),
    "opt": OPTConfig(
        vocab_size=64,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
        pad_token_id=0,
    ),
}
TOKENS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))


def make(config, seed=0, dtype=torch.float32):
    """A random model whose layers matter, and whose hidden states are large next to the epsilon of its norms."""
    model = build(copy.deepcopy(config), seed, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("embed", "wte", "wpe")):
                parameter.mul_(50)
            elif parameter.ndim > 1:
                parameter.mul_(6)
    return model


def stacked(order=ORDER, scales=ONES, source=MERGED):
    return [StackLayer(layer=layer, scale=scale, source=source) for layer, scale in zip(order, scales, strict=True)]


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def generated(model, **how):
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(TOKENS, **settings, **how)


def written(unrolled, folder):
    unrolled.config.save_pretrained(folder)
    tensors = {name: tensor.clone().contiguous() for name, tensor in unrolled.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(loading.values()), loading
    return model.eval()


def reader(model):
    """The layers of a model as the engine reads them from files."""
    slots = layout_of(model).slots

    def read(source, layer):
        return {slot.place.path: slot.live for slot in slots if slot.place.layer == layer}

    return read


def test_every_architecture_that_takes_scales_is_tested():
    assert FOLDS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
class TestEveryArchitecture:
    def test_the_identity_is_the_plain_model_and_none_restores_it(self, name):
        model = make(ARCHITECTURES[name])
        plain, config, layers = logits(model), model.config.to_dict(), list(model.modules())
        restacker = Restacker(model)
        restacker.apply(stacked(range(DEPTH), (1.0,) * DEPTH))
        assert torch.equal(logits(model), plain)
        restacker.apply(stacked(ORDER, SCALES))
        assert not torch.allclose(logits(model), plain, rtol=0.01)
        restacker.apply(None)
        assert torch.equal(logits(model), plain)
        assert model.config.to_dict() == config
        assert list(model.modules()) == layers

    @pytest.mark.parametrize("scales", [ONES, SCALES])
    def test_generation_and_file(self, name, scales, tmp_path):
        model = make(ARCHITECTURES[name])
        restacker = Restacker(model)
        restacker.apply(stacked(ORDER, scales))
        words = generated(model)
        assert torch.equal(words, generated(model, use_cache=False))
        loaded = written(restacker.unroll(), tmp_path)
        live, again = logits(model), logits(loaded)
        assert loaded.config.get_text_config().num_hidden_layers == len(ORDER)
        assert (again - live).abs().max() <= (1e-5 * live.abs().max() if scales == SCALES else 0)
        assert torch.equal(words, generated(loaded))


def test_weights_are_shared_and_what_is_written_in_place_shows_through():
    model = make(ARCHITECTURES["llama"])
    own = {id(parameter) for parameter in model.parameters()}
    Restacker(model).apply(stacked(ORDER, SCALES))
    assert {id(parameter) for parameter in model.parameters()} == own
    first, second = (model.model.layers[index].mlp.up_proj.weight for index in (2, 3))
    assert first.data_ptr() == second.data_ptr()
    before = logits(model)
    with torch.no_grad():
        first.mul_(2.0)
    assert torch.equal(first, second)
    assert not torch.equal(logits(model), before)


def test_each_layer_has_an_index_and_a_type_of_its_own():
    model = make(ARCHITECTURES["gemma3_text"])
    Restacker(model).apply(stacked())
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(len(ORDER)))
    assert [layer.self_attn.is_sliding for layer in model.model.layers] == [MIXED[i][0] == "s" for i in ORDER]
    assert model.config.layer_types == [MIXED[i] for i in ORDER]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_scale_multiplies_what_enters_a_layer(name):
    model = make(ARCHITECTURES[name])
    restacker = Restacker(model)
    restacker.apply(stacked(range(DEPTH), (1.0, 1.0, 0.6, 1.0)))
    scaled = logits(model)
    restacker.apply(None)
    layers = model.model.layers if name == "llama" else model.transformer.h

    def times(module, args, output):
        return (output[0] * 0.6, *output[1:]) if isinstance(output, tuple) else output * 0.6

    layers[1].register_forward_hook(times)
    torch.testing.assert_close(logits(model), scaled)


@pytest.mark.parametrize("place", ["positional", "keyword"])
def test_hidden_states_are_scaled_however_they_are_passed(place):
    model = make(ARCHITECTURES["llama"])
    model.model.layers[0].forward = lambda hidden_states, extra=None: (hidden_states, extra)
    Restacker(model).apply([StackLayer(layer=0, scale=0.5)])
    states = torch.ones(2)
    layer = model.model.layers[0]
    found, extra = layer(states, 7) if place == "positional" else layer(extra=7, hidden_states=states)
    assert found.tolist() == [0.5, 0.5]
    assert extra == 7


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma3_text"])
def test_layers_of_other_models(name, tmp_path):
    """The base's layers 0 and 1 and then an expert's 1, 3 and 3, around the base's embeddings and head."""
    model, expert = (make(ARCHITECTURES[name], seed) for seed in (0, 1))
    kept = [tensor.clone() for tensor in model.parameters()]
    restacker = Restacker(model)
    restacker.apply([*stacked((0, 1), (1.0, 0.9)), *stacked((1, 3, 3), (1.1, 1.0, 0.8), "math")], reader(expert))
    live = logits(model)
    loaded = written(restacker.unroll(), tmp_path)
    torch.testing.assert_close(logits(loaded), live, rtol=1e-4, atol=1e-4)

    restacker.apply(None)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), kept, strict=True))
    with torch.no_grad():
        for index, source in ((0, model), (1, model), (2, expert), (3, expert)):
            origin = source.model.layers[(0, 1, 1, 3)[index]].state_dict()
            model.model.layers[index].load_state_dict({key: value.clone() for key, value in origin.items()})
    restacker.apply(stacked((0, 1, 2, 3, 3), (1.0, 0.9, 1.1, 1.0, 0.8)))
    torch.testing.assert_close(logits(model), live)


def test_a_borrowed_layer_is_read_once_and_kept_while_it_is_used():
    model, read = make(ARCHITECTURES["llama"]), reader(make(ARCHITECTURES["llama"], 1))
    calls: Counter[tuple[str, int]] = Counter()

    def counting(source, layer):
        calls[source, layer] += 1
        return read(source, layer)

    restacker = Restacker(model)
    restacker.apply(stacked((1, 1, 2), (1.0,) * 3, "math"), counting)
    restacker.apply(stacked((2, 1), (1.0,) * 2, "math"), counting)
    assert calls == {("math", 1): 1, ("math", 2): 1}
    restacker.apply(stacked((2,), (1.0,), "math"), counting)
    restacker.apply(stacked((1,), (1.0,), "math"), counting)
    assert calls == {("math", 1): 2, ("math", 2): 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layer: layer.pop("mlp.up_proj.weight"), r"layers\.1\.mlp\.up_proj\.weight \[24, 16\], but it is miss"),
        (lambda layer: layer.update({"mlp.up_proj.weight": torch.ones(3)}), r"\[24, 16\], but it has \[3\]"),
        (lambda layer: layer.update({"extra": torch.ones(3)}), "the base's parameters, but has extra"),
    ],
)
def test_a_borrowed_layer_that_does_not_fit_changes_nothing(change, said):
    model = make(ARCHITECTURES["llama"])
    plain, read = logits(model), reader(make(ARCHITECTURES["llama"], 1))

    def broken(source, layer):
        layer = read(source, layer)
        change(layer)
        return layer

    with pytest.raises(InputError, match=said):
        Restacker(model).apply(stacked((1,), (1.0,), "math"), broken)
    assert torch.equal(logits(model), plain)


def test_a_layer_that_the_model_lacks():
    with pytest.raises(InputError, match="from 0 to 3, but got 4"):
        Restacker(make(ARCHITECTURES["llama"])).check([StackLayer(layer=4)])


@pytest.mark.parametrize(
    "config",
    [
        GPTNeoConfig(
            vocab_size=64, hidden_size=16, num_layers=4, num_heads=2, attention_types=[[["global", "local"], 2]]
        ),
        BloomConfig(**BLOOM, apply_residual_connection_post_layernorm=True),
    ],
)
def test_scales_that_no_weight_takes_are_refused_but_orders_are_not(config, tmp_path):
    model = make(config)
    restacker = Restacker(model)
    with pytest.raises(InputError, match=rf"must be 1 where .* as in this {config.model_type}, but got 0\.8"):
        restacker.apply(stacked(ORDER, SCALES))
    restacker.apply(stacked())
    assert torch.equal(generated(model), generated(model, use_cache=False))
    assert torch.equal(logits(written(restacker.unroll(), tmp_path)), logits(model))


@pytest.mark.parametrize("scales", [ONES, SCALES])
def test_an_order_that_files_cannot_say_is_refused_and_leaves_the_model_as_it_is(scales):
    model = make(GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True))
    restacker = Restacker(model)
    restacker.apply(stacked(ORDER, scales))
    live = logits(model)
    with pytest.raises(InputError, match="the same once written as a gpt2, but its logits differ by"):
        restacker.unroll()
    assert torch.equal(logits(model), live)


def test_a_fold_that_is_wrong_is_never_written(monkeypatch):
    monkeypatch.setitem(FOLDS, "llama", FOLDS["gpt2"])
    restacker = Restacker(make(ARCHITECTURES["llama"]))
    restacker.apply(stacked(ORDER, SCALES))
    with pytest.raises(InputError, match="the same once written as a llama, but its logits differ by"):
        restacker.unroll()


def test_keys_and_values_shared_between_layers_are_refused():
    model = make(ARCHITECTURES["llama"])
    model.config.num_kv_shared_layers = 2
    restacker = Restacker(model)
    with pytest.raises(InputError, match="keys and values of its own, but LlamaForCausalLM has num_kv_shared_layers 2"):
        restacker.apply(stacked())


def test_weights_that_overflow_when_scales_are_folded_in():
    restacker = Restacker(make(ARCHITECTURES["llama"], dtype=torch.float16))
    restacker.apply(stacked((0,) * 8, (0.1,) * 8))
    with pytest.raises(CandidateError, match=r"finite in torch\.float16, but model\.layers\.\d\.\w+\.\w+\.weight"):
        restacker.unroll()


def test_a_model_that_accelerate_dispatched(tmp_path):
    model = make(ARCHITECTURES["gemma3_text"])
    restacker = Restacker(model)
    restacker.apply(stacked(ORDER, SCALES))
    expected = logits(model)
    restacker.apply(None)
    modules = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    places = dict.fromkeys([*modules, *(f"model.layers.{index}" for index in range(DEPTH))], "cpu")
    dispatch_model(model, places, force_hooks=True)
    restacker.apply(stacked(ORDER, SCALES))
    assert torch.equal(logits(model), expected)
    assert all(layer.forward.args == (layer,) for layer in model.model.layers)
    loaded = written(restacker.unroll(), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_lower_precision(tmp_path):
    model = make(ARCHITECTURES["gemma2"], dtype=torch.bfloat16)
    restacker = Restacker(model)
    restacker.apply(stacked(ORDER, SCALES))
    loaded = written(restacker.unroll(), tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert (logits(loaded).float() - logits(model).float()).norm() < 0.05 * logits(model).float().norm()


def test_a_model_without_a_stack_unrolls_to_itself(tmp_path):
    model = make(ARCHITECTURES["mixtral"])
    unrolled = Restacker(model).unroll()
    assert sorted(unrolled.tensors) == sorted(slot.name for slot in layout_of(model).slots)
    assert torch.equal(logits(written(unrolled, tmp_path)), logits(model))


PLAIN = {
    "base": "base",
    "experts": ["math", {"model": "x", "name": "lang"}],
    "method": "ties",
    "groups": [{"layers": [0, 2], "parameters": {"weight": {"math": 0.5, "lang": 0.25}}}],
    "seed": 3,
}


def test_a_recipe_without_a_stack_keeps_its_json_and_its_digest():
    recipe = Recipe.model_validate(PLAIN)
    assert "stack" not in recipe.model_dump(mode="json")
    assert "stack" not in recipe.model_dump_json()
    assert recipe.digest == "baf13993796beed493d122faa162ddd1"


def test_a_recipe_with_a_stack():
    recipe = Recipe.model_validate({**PLAIN, "stack": [{"layer": 3}, {"layer": 0, "source": "lang", "scale": 0.9}]})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    plain = Recipe.model_validate(PLAIN)
    assert len({plain.digest, recipe.digest, recipe.model_copy(update={"stack": recipe.stack[:1]}).digest}) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stack": []}, "at least 1 item"),
        ({"stack": [{"layer": -1}]}, "greater than or equal to 0"),
        ({"stack": [{"layer": 0, "scale": 0.0}]}, "greater than or equal to 0.1"),
        ({"stack": [{"layer": 0, "scale": 11}]}, "less than or equal to 10"),
        ({"stack": [{"layer": 0, "source": "maths"}]}, "but got 'maths'; did you mean 'math'"),
        ({"stack": [{"layer": 0}], "experts": ["merged"]}, "no model of a recipe with a stack may be called 'merged'"),
        ({"stack": [{"layer": 0, "source": "base"}], "experts": ["x/base"]}, "'base' names two"),
    ],
)
def test_wrong_stacks_of_recipes(changes, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate({**PLAIN, "groups": [{}], **changes})
