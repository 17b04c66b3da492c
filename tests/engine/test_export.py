from __future__ import annotations

import os
import stat

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.engine import Merger, save_checkpoint, weights_digest
from evomerge.engine import export as export_module
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.test_layers import ARCHITECTURES
from tests.engine.tiny import build, family, llama, recipe, tokenizer


def reload(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("size", ["5GB", "4KB"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["zoo", "zoo_bfloat16"])
def test_what_is_loaded_is_the_candidate_bit_for_bit(which, dtype, size, request, tmp_path):
    refs = request.getfixturevalue(which)
    merger = Merger(refs[0], refs[1:], dtype, "cpu")
    merger.apply(recipe(refs, "ties", dtype, weight=0.6, density=0.5))
    folder = save_checkpoint(merger.model, merger.tokenizer, tmp_path / "out", max_shard_size=size)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (size == "4KB")
    again = reload(folder, "auto")
    state = merger.model.state_dict()
    assert again.dtype == getattr(torch, dtype)
    assert state.keys() == again.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor.view(torch.uint8), state[name].view(torch.uint8)), name
    assert weights_digest(again) == weights_digest(merger.model)


@pytest.mark.parametrize("name", ["mixtral", "gpt2", "gpt_neox"])
def test_other_names_on_disk_than_in_memory(name, tmp_path):
    refs = family(tmp_path, ARCHITECTURES[name][0])
    merger = Merger(refs[0], refs[1:], "float32", "cpu")
    merger.apply(recipe(refs, "linear"))
    folder = save_checkpoint(merger.model, merger.tokenizer, tmp_path / "out")
    assert weights_digest(reload(folder, "auto")) == weights_digest(merger.model)
    exported = ModelRef(model=str(folder))
    second = Merger(refs[0], [exported], "float32", "cpu")
    second.apply(recipe([refs[0], exported], "linear"))
    assert weights_digest(second.model) == weights_digest(merger.model)


def test_digest_follows_names_dtypes_and_every_bit(zoo):
    model = build(llama(), 0)
    digest = weights_digest(model)
    assert weights_digest(build(llama(), 0)) == digest
    assert weights_digest(build(llama(), 0).bfloat16()) != digest
    with torch.no_grad():
        model.model.norm.weight.view(torch.int32)[3] ^= 1
    assert weights_digest(model) != digest


def test_tokenizer_template_and_generation_config_are_kept(tmp_path):
    model = build(llama(), 0)
    model.generation_config.max_new_tokens = 17
    folder = save_checkpoint(model, tokenizer(), tmp_path / "deep" / "out")
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.get_vocab() == tokenizer().get_vocab()
    assert loaded.chat_template == tokenizer().chat_template
    assert reload(folder, "auto").generation_config.max_new_tokens == 17


def test_a_generation_config_that_transformers_would_not_write(tmp_path):
    model = build(llama(), 0)
    model.generation_config.temperature = 0.5
    folder = save_checkpoint(model, None, tmp_path / "out")
    assert model.generation_config.temperature == 0.5
    assert reload(folder, "auto").generation_config.temperature == 0.5


def test_further_files(tmp_path):
    folder = save_checkpoint(build(llama(), 0), None, tmp_path / "out", files={"README.md": "# Größe\n"})
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Größe\n"


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert (save_checkpoint(build(llama(), 0), None, tmp_path / "out") / "config.json").is_file()


def test_permissions_are_ordinary(tmp_path):
    mask = os.umask(0o022)
    try:
        folder = save_checkpoint(build(llama(), 0), tokenizer(), tmp_path / "out")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("kind", ["file", "full"])
def test_targets_that_exist_are_refused(tmp_path, kind):
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(InputError, match="must go to a new or empty folder"):
        save_checkpoint(build(llama(), 0), None, target)
    assert (target if kind == "file" else target / "mine").read_text() == "mine"


@pytest.mark.parametrize("failure", [RuntimeError("full"), KeyboardInterrupt(), OSError("no space left on device")])
def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch, failure):
    def fail(folder):
        assert list(folder.glob("*.safetensors"))
        raise failure

    monkeypatch.setattr(export_module, "_settle", fail)
    expected = InputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        save_checkpoint(build(llama(), 0), tokenizer(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
