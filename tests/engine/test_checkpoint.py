from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.engine.checkpoint import INDEX, SINGLE, open_checkpoint
from evomerge.engine.headers import read_header
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.tiny import build, llama


def opening(folder: Path | str) -> str:
    with pytest.raises(InputError) as raised:
        open_checkpoint(ModelRef(model=str(folder)))
    message = str(raised.value)
    assert "\n" not in message
    return message


def rewrite_header(path: Path, change) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def rewrite_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_tensors_are_those_of_the_files(zoo, zoo_bfloat16):
    for ref in (zoo[0], zoo_bfloat16[0]):
        checkpoint = open_checkpoint(ref)
        stored = {name: t for path in Path(ref.model).glob("*.safetensors") for name, t in load_file(path).items()}
        assert checkpoint.names() == tuple(sorted(stored))
        for name, tensor in stored.items():
            assert torch.equal(checkpoint.tensor(name), tensor)
            assert checkpoint.headers[name].shape == tuple(tensor.shape)


def test_sharded_fixture_has_shards(zoo_bfloat16):
    assert len(list(Path(zoo_bfloat16[0].model).glob("*.safetensors"))) > 2


def test_digest_follows_the_bytes_alone(zoo, copy_of):
    same = copy_of(zoo[1])
    digest = open_checkpoint(zoo[1]).digest()
    assert open_checkpoint(ModelRef(model=str(same))).digest() == digest
    assert open_checkpoint(zoo[0]).digest() != digest
    data = bytearray((same / SINGLE).read_bytes())
    data[-1] ^= 1
    (same / SINGLE).write_bytes(data)
    assert open_checkpoint(ModelRef(model=str(same))).digest() != digest


def test_missing_folder_names_the_nearest(zoo):
    message = opening(f"{zoo[1].model}x")
    assert "there is no folder" in message
    assert f"did you mean {zoo[1].model!r}" in message


def test_a_file_is_no_model(zoo):
    assert "is a file" in opening(f"{zoo[0].model}/config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(tmp_path, name):
    torch.save({}, tmp_path / name)
    message = opening(tmp_path)
    assert f"pickles such as {name} can run code and are refused" in message


def test_pickles_beside_safetensors_are_not_read(zoo, copy_of):
    folder = copy_of(zoo[0])
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    assert open_checkpoint(ModelRef(model=str(folder))).names()


def test_folder_without_weights(tmp_path):
    assert "has no safetensors" in opening(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    assert "has only consolidated.safetensors" in opening(tmp_path)


def test_missing_shard(zoo_bfloat16, copy_of):
    folder = copy_of(zoo_bfloat16[0])
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"names the shard {shard.name}, but {folder} has no such file" in opening(folder)


def test_index_names_a_tensor_that_its_shard_lacks(zoo_bfloat16, copy_of):
    folder = copy_of(zoo_bfloat16[0])
    shard = sorted(folder.glob("*.safetensors"))[0].name
    rewrite_index(folder, lambda places: places.update({"made.up.weight": shard}))
    assert f"{shard} must hold made.up.weight" in opening(folder)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/outside.safetensors", "a\\b.safetensors", "x.bin"])
def test_index_must_stay_in_its_folder(zoo_bfloat16, copy_of, place):
    folder = copy_of(zoo_bfloat16[0])
    rewrite_index(folder, lambda places: places.update({"model.norm.weight": place}))
    assert f"must name .safetensors files inside its folder, but names {place!r}" in opening(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}']
)
def test_broken_index(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    assert "must be JSON with a `weight_map`" in opening(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file(zoo, copy_of, keep):
    folder = copy_of(zoo[0])
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:keep])
    message = opening(folder)
    assert SINGLE in message
    assert "truncated" in message


def test_bytes_after_the_data(zoo, copy_of):
    folder = copy_of(zoo[0])
    with (folder / SINGLE).open("ab") as file:
        file.write(b"\0")
    assert "followed by other bytes" in opening(folder)


NAME = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.update(shape=[17]), "must take 68 bytes for F32 [17]"),
        (lambda entry: entry.update(shape=[-16]), "must give dtype, shape and data_offsets"),
        (lambda entry: entry.update(shape="16"), "must give dtype, shape and data_offsets"),
        (lambda entry: entry.update(dtype="F64"), "must take 128 bytes for F64 [16]"),
        (lambda entry: entry.update(dtype="F99"), "must be one that safetensors has, but is 'F99'"),
        (lambda entry: entry.pop("dtype"), "must give dtype, shape and data_offsets"),
        (lambda entry: entry.update(data_offsets=[10**9, 10**9 + 64]), "must have no gaps or overlaps"),
        (lambda entry: entry.update(data_offsets=[0, 64]), "must have no gaps or overlaps"),
        (lambda entry: entry.update(data_offsets=[0]), "must give dtype, shape and data_offsets"),
    ],
)
def test_header_that_lies(zoo, copy_of, change, message):
    folder = copy_of(zoo[0])
    rewrite_header(folder / SINGLE, lambda header: change(header[NAME]))
    found = opening(folder)
    assert message in found
    assert SINGLE in found


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{x"])
def test_file_that_is_no_safetensors(tmp_path, data):
    (tmp_path / SINGLE).write_bytes(data)
    assert "must be a safetensors file" in opening(tmp_path)


def test_one_tensor_in_two_shards(tmp_path):
    for part in "12":
        save_file({"a": torch.zeros(1), f"b{part}": torch.zeros(1)}, tmp_path / f"{part}.safetensors")
    places = {"a": "1.safetensors", "b1": "1.safetensors", "b2": "2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    assert "a is in two shards" in opening(tmp_path)


def test_headers_of_every_dtype(tmp_path):
    tensors = {
        str(dtype): torch.zeros(3, 2).to(dtype)
        for dtype in (torch.float64, torch.bfloat16, torch.int32, torch.bool, torch.float8_e4m3fn)
    }
    save_file({**tensors, "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}, tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    assert {name: header.shape for name, header in found.items()} == {
        **dict.fromkeys(tensors, (3, 2)),
        "scalar": (),
        "empty": (0, 4),
    }


def test_integers_are_not_merged(tmp_path):
    save_file({"a": torch.zeros(2, dtype=torch.int32)}, tmp_path / SINGLE)
    checkpoint = open_checkpoint(ModelRef(model=str(tmp_path)))
    with pytest.raises(InputError, match="a must be one of BF16, F16, F32, F64 to be merged, but is I32"):
        checkpoint.tensor("a")


@pytest.mark.parametrize(
    ("text", "message"), [(None, "must be a model's configuration"), ("{", "Expecting"), ("[]", "is list")]
)
def test_broken_config(zoo, copy_of, text, message):
    folder = copy_of(zoo[0])
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        _ = open_checkpoint(ModelRef(model=str(folder))).config


def test_unknown_architecture(zoo, copy_of):
    folder = copy_of(zoo[0])
    (folder / "config.json").write_text('{"model_type": "made_up"}')
    with pytest.raises(InputError, match=r"config\.json must be readable by transformers"):
        _ = open_checkpoint(ModelRef(model=str(folder))).pretrained_config


def test_missing_tokenizer(zoo, copy_of):
    folder = copy_of(zoo[0])
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="must hold a tokenizer, but has none"):
        open_checkpoint(ModelRef(model=str(folder))).tokenizer()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache with one repository, reachable offline only."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = cache / "models--tiny--llama"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()

    def fill(source: str) -> str:
        for number, path in enumerate(sorted(Path(source).iterdir())):
            shutil.copy(path, blobs / str(number))
            os.symlink(f"../../blobs/{number}", snapshot / path.name)
        return commit

    return fill


@pytest.mark.parametrize("which", ["zoo", "zoo_bfloat16"])
def test_hub_id_from_the_cache(hub, which, request):
    ref = request.getfixturevalue(which)[0]
    commit = hub(ref.model)
    want = open_checkpoint(ref)
    for revision in (None, "main", commit):
        got = open_checkpoint(ModelRef(model="tiny/llama", revision=revision))
        assert got.names() == want.names()
        assert torch.equal(got.tensor(NAME), want.tensor(NAME))
        assert got.config["model_type"] == "llama"
        assert got.digest() == want.digest()


def test_hub_id_that_is_not_cached(hub, zoo):
    hub(zoo[0].model)
    assert "and the hub gave none" in opening("tiny/other")
    with pytest.raises(InputError, match="at 'v2'"):
        open_checkpoint(ModelRef(model="tiny/llama", revision="v2"))


@pytest.mark.parametrize("code", [False, True])
def test_pickles_are_not_downloaded(monkeypatch, zoo, code):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, object] = {}

    def download(source, **how):
        asked.update(how)
        return zoo[0].model

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    open_checkpoint(ModelRef(model="tiny/llama", revision="v1", trust_remote_code=code))
    assert asked.pop("revision") == "v1"
    wanted = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "merges.txt", "chat_template.jinja"]
    refused = [
        "pytorch_model.bin",
        "model.pt",
        "x/y.pth",
        "tokenizer.pkl",
        "consolidated.safetensors",
        "original/a.json",
    ]
    kept = set(filter_repo_objects([*wanted, *refused, "modeling.py"], **asked))
    assert kept == {*wanted, *(["modeling.py"] * code)}


def test_hub_repository_of_pickles(hub, tmp_path):
    folder = tmp_path / "pickles"
    folder.mkdir()
    llama().save_pretrained(folder)
    torch.save(build(llama(), 0).state_dict(), folder / "pytorch_model.bin")
    hub(str(folder))
    assert "are refused" in opening("tiny/llama")
