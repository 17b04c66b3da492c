"""Files as safetensors' own library and transformers write and read them."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from evomerge.engine.export import check_room, tensors_digest
from evomerge.engine.headers import read_header
from evomerge.engine.writer import NAMES, TensorSpec, split, write_shards
from evomerge.errors import InputError

DTYPES = list(NAMES)


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
    shapes = st.sampled_from([(), (0, 3), (1,), (7,), (3, 5), (2, 3, 4)])
    return {name: (torch.randn(draw(shapes)) * 100).to(draw(st.sampled_from(DTYPES))) for name in sorted(names)}


def write(folder, tensors, limit=2**40) -> str:
    specs = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    return write_shards(folder, specs, lambda name: split(tensors[name]), limit)


@settings(max_examples=40, deadline=None)
@given(tensors=states(), limit=st.sampled_from([1, 40, 200, 2**40]))
def test_what_is_written_is_read_back(tmp_path_factory, tensors, limit):
    folder = tmp_path_factory.mktemp("shards")
    digest = write(folder, tensors, limit)
    found = {}
    for path in folder.glob("*.safetensors"):
        read_header(path)  # sizes, offsets and cover are checked here
        part = load_file(path)
        assert sum(t.numel() * t.element_size() for t in part.values()) <= limit or len(part) == 1
        found |= part
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    assert digest == tensors_digest(tensors)


def test_the_index_names_every_tensor(tmp_path):
    tensors = {f"layer.{i}": torch.full((10,), float(i)) for i in range(5)}
    write(tmp_path, tensors, 80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert set(index["weight_map"]) == set(tensors)
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


def test_the_digest_sees_names_shapes_and_values():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    seen = {
        tensors_digest(one),
        tensors_digest({"a": one["a"], "c": one["b"]}),
        tensors_digest({"a": one["a"].view(2, 1), "b": one["b"]}),
        tensors_digest({"a": one["a"], "b": torch.tensor([-3.0])}),
        tensors_digest({"a": one["a"].view(torch.int32), "b": one["b"]}),
    }
    assert len(seen) == 5
    assert tensors_digest(dict(reversed(one.items()))) == tensors_digest(one)


def test_pieces_that_do_not_fill_a_tensor_are_an_error(tmp_path):
    spec = TensorSpec("a", torch.float32, (4,))
    with pytest.raises(ValueError, match="a must have 16 bytes, but 12 were given"):
        write_shards(tmp_path, [spec], lambda name: iter([torch.zeros(3)]), 2**40)


def test_room_is_checked_first(tmp_path, monkeypatch):
    check_room(tmp_path, 1000)
    with pytest.raises(InputError, match=r"an export needs 1e\+03 TB|an export needs 1000 TB of free space, but"):
        check_room(tmp_path, 10**15)
