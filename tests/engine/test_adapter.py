"""LoRA adapters applied on read, compared with peft's merge_and_unload in float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from evomerge.engine import Merger, check_compatible, load_model
from evomerge.engine.alignment import align
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.readings import whole
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.tiny import llama, recipe, save

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=3, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2)
UNTIED = llama(tie_word_embeddings=False)


def train(base: Path, folder: Path, seed: int = 0, **settings) -> dict[str, torch.Tensor]:
    """Saves a random adapter; returns the state of the model that peft merges it into."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload(safe_merge=True).state_dict()


CASES = {
    "plain": (llama(), {"r": 4, "lora_alpha": 8, "target_modules": ALL}),
    "some layers": (llama(), {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1]}),
    "rslora": (llama(), {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ALL}),
    "patterns": (
        llama(),
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ALL,
            "rank_pattern": {"q_proj": 2, r"layers.1.mlp.up_proj": 3},
            "alpha_pattern": {r"model.layers.\d.self_attn.q_proj": 5, "up_proj": 7},
        },
    ),
    "conv1d": (GPT2, {"r": 4, "target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
    "embedding": (UNTIED, {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "tied embedding": (llama(), {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}),
    "modules to save": (UNTIED, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_equal_peft(case, tmp_path):
    config, settings = CASES[case]
    base = save(tmp_path / "base", config, 0)
    want = train(base, tmp_path / "lora", **settings)
    ref = ModelRef(model=str(base), adapter=str(tmp_path / "lora"))
    assert ref.name == "lora"
    origin = ModelRef(model=str(base))
    check_compatible(origin, [ref])
    merger = Merger(origin, [ref], "float32", "cpu")
    changed = False
    for name, tensor in merger.model.state_dict().items():
        changed |= not torch.allclose(tensor, want[name])
    assert changed
    merger.apply(recipe([origin, ref], "linear"))
    for name, tensor in merger.model.state_dict().items():
        torch.testing.assert_close(tensor, want[name], rtol=1e-6, atol=1e-6)
    for name, tensor in load_model(ref, "float32", "cpu").state_dict().items():
        torch.testing.assert_close(tensor, want[name], rtol=1e-6, atol=1e-6)


@pytest.fixture
def lora(tmp_path, zoo) -> ModelRef:
    train(Path(zoo[0].model), tmp_path / "lora", r=4, target_modules=["q_proj", "up_proj"])
    return ModelRef(model=zoo[0].model, adapter=str(tmp_path / "lora"))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties"])
def test_an_adapter_is_an_expert_like_others(method, lora, zoo, tmp_path):
    """The candidate equals the one with the adapter merged into a checkpoint beforehand."""
    load_model(lora, "float32", "cpu").save_pretrained(tmp_path / "merged")
    merged = ModelRef(model=str(tmp_path / "merged"), name="lora")
    states = []
    for expert in (lora, merged):
        merger = Merger(zoo[0], [expert, zoo[1]], "float32", "cpu")
        merger.apply(recipe([zoo[0], expert, zoo[1]], method, weight=0.7))
        states.append({name: tensor.clone() for name, tensor in merger.model.state_dict().items()})
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_base_may_have_an_adapter(lora, zoo):
    merger = Merger(lora, [zoo[1]], "float32", "cpu")
    want = load_model(lora, "float32", "cpu").state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in merger.model.state_dict().items())
    merger.apply(recipe([lora, zoo[1]], "task_arithmetic", weight=0.0))
    assert all(torch.equal(tensor, want[name]) for name, tensor in merger.model.state_dict().items())


def test_digest_covers_the_adapter(lora, zoo):
    before = open_checkpoint(lora).digest()
    assert before != open_checkpoint(zoo[0]).digest()
    change(lora, lora_alpha=99)
    assert open_checkpoint(lora).digest() != before


def change(ref: ModelRef, **settings) -> None:
    path = Path(str(ref.adapter)) / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "must have the peft_type LORA, but has 'IA3'"),
        ({"use_dora": True}, "adapters with use_dora are not supported"),
        ({"lora_bias": True}, "adapters with lora_bias are not supported"),
        ({"target_parameters": ["a"]}, "adapters with target_parameters are not supported"),
        ({"bias": "all"}, "must have the bias 'none', but this one has 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the model's own weights"),
        ({"r": 5}, "the rank 5, but adapter_model.safetensors has 4"),
        ({"lora_alpha": None}, "must give lora_alpha, but gives None"),
        ({"fan_in_fan_out": True}, "does not fit model.layers.0.mlp.up_proj.weight [24, 16]"),
    ],
)
def test_settings_that_are_refused(lora, settings, message):
    change(lora, **settings)
    assert message in refusal(lora)


def refusal(ref: ModelRef) -> str:
    with pytest.raises(InputError) as raised:
        open_checkpoint(ref)
    assert "\n" not in str(raised.value)
    return str(raised.value)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda t: t.pop(f"{Q}.lora_B.weight"),
            f"must hold A [r, in] and B [out, r] of {Q.removeprefix('base_model.model.')}",
        ),
        (lambda t: t.pop(f"{Q}.lora_A.weight"), f"lacks {Q}.lora_A.weight"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.zeros(16)}), "holds no such parameter"),
        (lambda t: t.update({"unknown": torch.zeros(16)}), "but holds unknown"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.zeros(15, 4)}), "does not fit"),
        (
            lambda t: t.update(
                {Q.replace(".0.", ".7.") + s: torch.zeros(16, 16) for s in (".lora_A.weight", ".lora_B.weight")}
            ),
            "has a term for model.layers.7.self_attn.q_proj.weight, but",
        ),
    ],
)
def test_weights_that_do_not_fit(lora, edit, message):
    path = Path(str(lora.adapter)) / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    assert message in refusal(lora)


def test_a_whole_embedding_that_the_model_ties(tmp_path, zoo):
    train(Path(zoo[0].model), tmp_path / "lora", r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    assert "but the model ties it" in refusal(ModelRef(model=zoo[0].model, adapter=str(tmp_path / "lora")))


def test_pickled_adapters_are_refused(lora):
    folder = Path(str(lora.adapter))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickles such as adapter_model.bin can run code and are refused" in refusal(lora)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_broken_adapter_settings(lora, text):
    path = Path(str(lora.adapter)) / "adapter_config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert "adapter_config.json must" in refusal(lora)


def test_missing_adapter(zoo, tmp_path):
    assert "there is no folder" in refusal(ModelRef(model=zoo[0].model, adapter=str(tmp_path / "none")))


def test_readings_are_the_tensors(lora):
    checkpoint = open_checkpoint(lora)
    name = "model.layers.0.self_attn.q_proj.weight"
    reading = checkpoint.reading(name)
    assert reading.computed
    assert reading.dtype == torch.float32
    want = checkpoint.tensor(name).view(-1)
    for start, stop in [(0, 5), (5, 256), (31, 33)]:
        out = torch.empty(stop - start)
        checkpoint.reading(name).fill(out, start)
        assert torch.equal(out, want[start:stop])
    assert not checkpoint.reading("model.norm.weight").computed


@pytest.mark.parametrize(
    ("trained_on", "noted"),
    [
        ("org/Base", False),
        ("/somewhere/base/", False),
        (None, False),
        ("", False),
        ("org/other-7b", True),
    ],
)
def test_an_adapter_of_another_model_is_noted(lora, zoo, trained_on, noted):
    change(lora, base_model_name_or_path=trained_on)
    note = f"lora: the adapter was trained on {trained_on!r} and is applied to {zoo[0].model!r}, which it fits"
    assert check_compatible(zoo[0], [lora]) == ((note,) if noted else ())


def test_several_adapters_on_one_base(tmp_path, zoo):
    refs = []
    for seed in range(3):
        train(Path(zoo[0].model), tmp_path / f"lora{seed}", seed, r=2 + seed, target_modules=["q_proj"])
        refs.append(ModelRef(model=zoo[0].model, adapter=str(tmp_path / f"lora{seed}")))
    found = align(open_checkpoint(zoo[0]), [open_checkpoint(ref) for ref in refs])
    assert found.notes == ()
    name = "model.layers.2.self_attn.q_proj.weight"
    tensors = [whole(readings[name]) for readings in found.readings]
    assert all(torch.equal(got, open_checkpoint(ref).tensor(name)) for got, ref in zip(tensors[1:], refs, strict=True))
    assert all(not torch.equal(tensors[i], tensors[j]) for i in range(4) for j in range(i))
