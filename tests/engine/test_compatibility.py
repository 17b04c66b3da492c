from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralConfig

from evomerge.engine import Merger, check_compatible
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.tiny import llama, recipe, save, tokenizer


def refusal(base: ModelRef, expert: Path) -> str:
    """The one line that both the check and the merger refuse with."""
    ref = ModelRef(model=str(expert), name="odd")
    messages = []
    for act in (lambda: check_compatible(base, [ref]), lambda: Merger(base, [ref], "float32", "cpu")):
        with pytest.raises(InputError) as raised:
            act()
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    assert "'odd'" in messages[0]
    return messages[0]


def edit(folder: Path, change) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_family_is_compatible(zoo, zoo_bfloat16):
    assert check_compatible(zoo[0], zoo[1:]) == ()
    assert check_compatible(zoo_bfloat16[0], zoo_bfloat16[1:]) == ()


def test_other_architecture(zoo, tmp_path):
    config = MistralConfig(**{k: v for k, v in llama().to_dict().items() if k not in ("model_type", "architectures")})
    message = refusal(zoo[0], save(tmp_path / "odd", config, 1))
    assert "must have the base's model_type 'llama', but has 'mistral'" in message


@pytest.mark.parametrize(
    ("key", "value", "base"), [("num_hidden_layers", 2, 3), ("hidden_size", 32, 16), ("vocab_size", 66, 64)]
)
def test_other_size(zoo, tmp_path, key, value, base):
    message = refusal(zoo[0], save(tmp_path / "odd", llama(**{key: value}), 1))
    assert f"must have the base's {key} {base}, but has {value}" in message
    assert ("`tokenizer: union`" in message) is (key == "vocab_size")


def test_missing_parameter(zoo, copy_of):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = edit(copy_of(zoo[1]), lambda tensors: tensors.pop(name))
    broken = ModelRef(model=str(folder))
    assert check_compatible(zoo[0], [broken]) == (f"broken: lacks {name}; counted as the base's",)
    with pytest.raises(InputError, match=f"must hold {name}, but lacks it"):
        check_compatible(broken, zoo[1:])


def test_other_shape(zoo, copy_of):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = edit(copy_of(zoo[1]), lambda tensors: tensors.update({name: torch.zeros(24, 15)}))
    assert f"must hold {name} in the base's shape [24, 16], but has [24, 15]" in refusal(zoo[0], folder)


def test_parameter_that_the_base_lacks(zoo, copy_of):
    name = "model.layers.1.mlp.up_proj.bias"
    folder = edit(copy_of(zoo[1]), lambda tensors: tensors.update({name: torch.zeros(24)}))
    assert f"but holds {name}" in refusal(zoo[0], folder)


def test_quantized_weights(zoo, copy_of):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = edit(copy_of(zoo[1]), lambda tensors: tensors.update({name: torch.zeros(24, 16, dtype=torch.int8)}))
    assert f"must hold {name} in BF16, F16, F32, F64 to be merged, but has I8" in refusal(zoo[0], folder)


def test_old_buffers_are_not_parameters(zoo, copy_of):
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    folder = edit(copy_of(zoo[1]), lambda tensors: tensors.update({name: torch.zeros(4)}))
    check_compatible(zoo[0], [ModelRef(model=str(folder))])


def test_names_without_the_base_model_prefix(zoo, copy_of):
    folder = copy_of(zoo[1])
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    bare = ModelRef(model=str(folder), name="math")
    check_compatible(zoo[0], [bare])
    merger = Merger(zoo[0], [bare], "float32", "cpu")
    merger.apply(recipe([zoo[0], bare], "linear"))
    assert torch.equal(merger.model.state_dict()["model.norm.weight"], tensors["norm.weight"])


def test_head_stored_beside_a_tied_embedding(zoo, copy_of):
    folder = copy_of(zoo[1])
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    check_compatible(zoo[0], [ModelRef(model=str(folder))])
    edit(folder, lambda tensors: tensors["lm_head.weight"].add_(1))
    (note,) = check_compatible(zoo[0], [ModelRef(model=str(folder))])
    assert "the candidate has a head apart from its embedding, since broken has one" in note


def test_two_names_of_one_parameter_with_different_weights(zoo, copy_of):
    folder = edit(copy_of(zoo[1]), lambda tensors: tensors.update({"norm.weight": tensors["model.norm.weight"] + 1}))
    assert "must tie model.norm.weight and norm.weight as the base does" in refusal(zoo[0], folder)


def test_expert_that_ties_what_the_base_does_not(tmp_path):
    base = ModelRef(model=str(save(tmp_path / "base", llama(tie_word_embeddings=False), 0)))
    (note,) = check_compatible(base, [ModelRef(model=str(save(tmp_path / "odd", llama(), 1)))])
    assert note.endswith("since base has one; odd: the embedding counts as the head")


def test_other_vocabulary(zoo, copy_of):
    folder = copy_of(zoo[1])
    tokenizer(extra=["<new>"]).save_pretrained(folder)
    message = refusal(zoo[0], folder)
    assert "must have the base's vocabulary, but token 'w0' has id 4, not 3; `tokenizer: union` merges" in message


def test_added_token(zoo, copy_of):
    folder = copy_of(zoo[1])
    grown = tokenizer()
    grown.add_tokens(["<|im_start|>"])
    grown.save_pretrained(folder)
    assert "but token '<|im_start|>' has id 64, not none" in refusal(zoo[0], folder)


def test_same_vocabulary_in_other_files(zoo, copy_of):
    folder = copy_of(zoo[1])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 17}))
    check_compatible(zoo[0], [ModelRef(model=str(folder))])


def test_expert_without_tokenizer(zoo, copy_of):
    folder = copy_of(zoo[1])
    for path in folder.glob("tokenizer*"):
        path.unlink()
    check_compatible(zoo[0], [ModelRef(model=str(folder))])


def test_base_that_is_no_causal_language_model(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match="must be a causal language model"):
        check_compatible(ModelRef(model=str(tmp_path / "t5")), [])


def test_quantized_config(zoo, copy_of):
    folder = copy_of(zoo[0])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match="must hold unquantized weights"):
        check_compatible(ModelRef(model=str(folder)), [zoo[1]])
