"""A model's folder: links, code, kernels and sizes that it asks for, and pickles."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.engine import open_checkpoint
from evomerge.engine.gguf_header import check_gguf
from evomerge.engine.patterns import compiled
from evomerge.engine.places import inside
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.tiny import llama, save
from tests.security.readers import GGUF, INDEX, sound, tensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model", llama(), 0)


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(folder: Path, **how: Any) -> str:
    with pytest.raises(InputError) as caught:
        _open(folder, **how)
    return str(caught.value)


def _open(folder: Path, **how: Any) -> None:
    checkpoint = open_checkpoint(ModelRef(model=str(folder), **how))
    assert checkpoint.pretrained_config is not None
    checkpoint.tokenizer()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_that_leaves_the_folder(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).rename(tmp_path / name)
    (model / name).symlink_to(tmp_path / name)
    assert f"{name} is a link to '{tmp_path / name}'" in refusal(model)
    (model / name).unlink()
    (model / "content").mkdir()
    (tmp_path / name).rename(model / "content" / name)
    (model / name).symlink_to(f"content/{name}")
    open_checkpoint(ModelRef(model=str(model))).tokenizer()


@pytest.mark.parametrize(
    "file",
    [
        "../a.safetensors",
        "/tmp/a.safetensors",
        "x/../../a.safetensors",
        "link.safetensors",
        "linked/a.safetensors",
        "a\0",
    ],
)
def test_a_shard_that_leaves_the_folder(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    (tmp_path / "a.safetensors").write_bytes(sound(tensors("a")))
    (folder / "linked").symlink_to(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({**INDEX, "weight_map": {"a": file}}))
    if file.startswith("link."):
        (folder / file).symlink_to(tmp_path / "a.safetensors")
        assert "must hold its own files" in refusal(folder)
    else:
        assert "must name .safetensors files inside its folder" in refusal(folder)


@given(st.text(max_size=40) | st.sampled_from(["a/b.safetensors", "./a", "a//b", "x" * 300]))
def test_a_name_stays_inside_or_is_none(name: str) -> None:
    home = Path("/nowhere/models/x")
    found = inside(home, name)
    assert found is None or found.resolve().is_relative_to(home)


def test_the_hub_s_cache_keeps_working(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").touch()
    os.symlink("../../blobs/abc", snapshot / "a.safetensors")
    assert inside(snapshot, "a.safetensors") == snapshot / "a.safetensors"
    (tmp_path / "blob").touch()
    os.symlink("../../../blob", snapshot / "b.safetensors")
    assert inside(snapshot, "b.safetensors") is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"attn_implementation": "someone/kernel"}, "which is code from elsewhere"),
        ({"_attn_implementation": {"": "someone/kernel"}}, "which is code from elsewhere"),
        ({"nested": [{"experts_implementation": "a/b:c"}]}, "nested.experts_implementation must be one of"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 100000, but is 1000000000"),
        ({"num_hidden_layers": 1000}, "num_hidden_layers must fit the files, which hold 29 tensors"),
        ({"n_routed_experts": 10**400}, "n_routed_experts must be at most 100000, but is larger than 1e300"),
    ],
)
def test_what_a_configuration_asks_for(model: Path, values: dict[str, Any], says: str) -> None:
    change(model / "config.json", **values)
    assert says in refusal(model)


@pytest.mark.parametrize("own", [False, True])
def test_code_of_a_model_s_own_is_not_run(model: Path, own: bool) -> None:
    code = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Config: ...\n"
    (model / "code.py").write_text(code)
    change(model / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Config"})
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Config", None]})
    if own:
        change(model / "config.json", model_type="someones")
        assert "trust_remote_code" in refusal(model)
    else:
        checkpoint = open_checkpoint(ModelRef(model=str(model)))
        checkpoint.tokenizer()
        assert type(checkpoint.pretrained_config).__name__ == "LlamaConfig"
        (note,) = checkpoint.notes
        assert "config.json and tokenizer_config.json name code of the model's own (auto_map), which is not run" in note
    assert not list(model.glob("**/ran"))


class Trap:
    """Unpickling it would leave a trace."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_no_file_of_a_model_is_unpickled(model: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "scheduler.pt",
        "rng_state.pth",
        "pytorch_model.bin",
        "vocab.pkl",
    ):
        (model / name).write_bytes(trap)
    open_checkpoint(ModelRef(model=str(model))).tokenizer()
    (model / "model.safetensors").unlink()
    assert "pickles such as" in refusal(model)
    (model / "model.safetensors").write_bytes(trap)
    assert "must be a safetensors file" in refusal(model)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))
    (adapter / "adapter_model.bin").write_bytes(trap)
    (model / "model.safetensors").write_bytes(sound(tensors("a")))
    assert "pickles such as adapter_model.bin can run code" in refusal(model, adapter=str(adapter))
    (model / "weights.gguf").write_bytes(trap)
    assert "must be a GGUF file" in refusal(model / "weights.gguf")
    assert not (tmp_path / "sprung").exists()


def test_chat_templates_are_in_transformers_sandbox(model: Path) -> None:
    from jinja2.exceptions import SecurityError

    change(model / "tokenizer_config.json", chat_template="{{ messages.__class__.__mro__ }}")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = open_checkpoint(ModelRef(model=str(model))).tokenizer()
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_a_tokenizer_reads_its_own_folder_alone(model: Path, tmp_path: Path) -> None:
    """transformers 5 puts its own paths over those that a tokenizer's configuration names."""
    shutil.copy(model / "tokenizer.json", tmp_path / "other.json")
    (model / "tokenizer.json").unlink()
    change(model / "tokenizer_config.json", tokenizer_file="../other.json", vocab_file="/etc/passwd")
    refusal(model)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|b)*c", "(x{9}){9}", ".*.*.*.*", "a{99999999999}", "(" * 500, "[", "a" * 3000]
)
def test_patterns_that_could_take_for_ever(pattern: str) -> None:
    with pytest.raises(re.error):
        compiled(pattern)


@pytest.mark.parametrize(
    "pattern", ["q_proj|k_proj", r"mlp\.(up|down)_proj$", r"^[a-z]+\.\d+", r"(q|k)?_proj.*x", r"[)*+]\*"]
)
def test_patterns_of_recipes_and_adapters(pattern: str) -> None:
    assert compiled(pattern).pattern == pattern


TWO, MILLION = struct.pack("<II", 4, 2), struct.pack("<II", 4, 10**6)
THREE, MANY = struct.pack("<IIQ", 9, 8, 3), struct.pack("<IIQ", 9, 8, 2**63)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"block_count" + TWO, b"block_count" + MILLION, "block_count that fits its 3 tensors, but has 1000000"),
        (b"embedding_length", b"embedding_lenght", r"must have the setting llama\.embedding_length, but lacks it"),
        (b"tokens" + THREE, b"tokens" + MANY, "must have texts of at most 1000000 bytes here"),
        (b"GGUF" + struct.pack("<I", 3), b"GGUF" + struct.pack(">I", 3), "must be GGUF of version 2 or 3"),
    ],
)
def test_a_gguf_header_that_claims_too_much(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    (tmp_path / "a.gguf").write_bytes(GGUF)
    check_gguf(tmp_path / "a.gguf")
    assert GGUF.count(old) == 1
    (tmp_path / "a.gguf").write_bytes(GGUF.replace(old, new))
    with pytest.raises(InputError, match=says):
        check_gguf(tmp_path / "a.gguf")
