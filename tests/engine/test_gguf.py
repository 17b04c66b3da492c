"""GGUF files against what transformers reads from them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.engine.alignment import align
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.readings import whole
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.test_alignment import computes_the_same
from tests.engine.tiny import build, llama

gguf = pytest.importorskip("gguf")

CONFIG = llama(hidden_size=32, intermediate_size=64, num_hidden_layers=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def write(path: Path, seed: int, further: dict[str, np.ndarray] | None = None) -> Path:
    """A tiny Llama: norms in F32, down projections in F16, the rest in Q8_0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(64)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(61))])
    writer.add_token_scores([0.0] * 64)
    writer.add_token_types([2, 3, 3, *[1] * 61])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, parameter in build(CONFIG, seed).named_parameters():
        module, _, kind = name.rpartition(".")
        data = parameter.detach().numpy()
        target = f"{names.get_name(module)}.{kind}"
        if data.ndim == 1:
            writer.add_tensor(target, data)
        elif "down_proj" in name:
            writer.add_tensor(target, data.astype(np.float16))
        else:
            quantized = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name, data in (further or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ref(path: Path) -> ModelRef:
    return ModelRef(model=str(path))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as raised:
        open_checkpoint(ref(path))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_weights_are_those_that_transformers_reads(tmp_path, cache):
    path = write(tmp_path / "zoo" / "math.gguf", 0)
    want = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for place in (path, path.parent):
        checkpoint = open_checkpoint(ref(place))
        assert checkpoint.names() == tuple(sorted(name for name, _ in want.named_parameters()))
        for name, parameter in want.named_parameters():
            tensor = checkpoint.tensor(name)
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, parameter)
        assert checkpoint.notes == (f"math.gguf: converted to float32 in {checkpoint.folder}",)
        assert checkpoint.folder.parent == cache
        assert checkpoint.pretrained_config.tie_word_embeddings
        tokens = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).get_vocab()
        assert checkpoint.tokenizer().get_vocab() == tokens
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1


def test_it_is_a_source_like_others(tmp_path):
    refs = [ref(write(tmp_path / f"{name}.gguf", seed)) for seed, name in enumerate(("base", "math"))]
    found = align(*((opened := [open_checkpoint(one) for one in refs])[0], opened[1:]))
    assert all(computes_the_same(found, source) for source in range(2))
    assert [note.partition(":")[0] for note in found.notes] == ["base.gguf", "math.gguf"]
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(*(whole(readings[name]) for readings in found.readings))


def test_a_file_is_converted_once(tmp_path, monkeypatch):
    path = write(tmp_path / "math.gguf", 0)
    folder = open_checkpoint(ref(path)).folder
    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", None)
        assert open_checkpoint(ref(path)).folder == folder
    os.utime(path, (1, 1))
    assert open_checkpoint(ref(path)).folder != folder


def test_several_files_in_a_folder(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "zoo" / f"{name}.gguf", 0)
    assert "must hold one .gguf file, but holds 2 (a.gguf, b.gguf); name the file itself" in refused(tmp_path / "zoo")


def test_safetensors_go_before_gguf(zoo, copy_of):
    folder = copy_of(zoo[0])
    write(folder / "math.gguf", 0)
    assert open_checkpoint(ref(folder)).folder == folder


def test_weights_that_transformers_would_leave_out(tmp_path, cache):
    path = write(tmp_path / "math.gguf", 0, {"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)})
    message = refused(path)
    assert "must hold the weights that transformers reads, but holds" in message
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_tables_of_frequencies_are_noted(tmp_path):
    path = write(tmp_path / "math.gguf", 0, {"rope_freqs.weight": np.ones(8, dtype=np.float32)})
    note = "math.gguf: rope_freqs.weight is not read by transformers; long contexts may differ"
    assert note in open_checkpoint(ref(path)).notes
    assert note in open_checkpoint(ref(path)).notes


def test_a_file_that_is_no_gguf(tmp_path, cache):
    (tmp_path / "math.gguf").write_bytes(b"anything")
    assert "math.gguf must be a GGUF file that transformers reads, but " in refused(tmp_path / "math.gguf")
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_a_missing_file_names_the_nearest(tmp_path):
    path = write(tmp_path / "math.gguf", 0)
    assert f"did you mean {str(path)!r}" in refused(tmp_path / "maths.gguf")


def test_the_package_is_asked_for(tmp_path, monkeypatch):
    path = write(tmp_path / "math.gguf", 0)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "the package that reads it is missing: pip install gguf" in refused(path)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    path = write(tmp_path / "math.gguf", 0)
    monkeypatch.setenv("EVOMERGE_CACHE", str(path))
    assert "must be writable, to convert" in refused(path)
