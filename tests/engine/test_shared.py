"""Processes of one host that merge the same models: one copy of the weights, the same candidates."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evomerge.engine import Merger, mapped, sharing
from evomerge.engine.commons import common_plan
from evomerge.engine.export import tensors_digest
from evomerge.engine.memory import Crowd, plan_memory
from evomerge.engine.method import METHODS
from evomerge.engine.recipe import ModelRef
from evomerge.engine.store import Store
from evomerge.errors import InputError
from tests.engine.test_materialize import same, state
from tests.engine.test_memory import NAMES, arena
from tests.engine.tiny import llama, recipe, tokenizer

_FORK = multiprocessing.get_context("fork")
MILLION = 10**6


@pytest.fixture(autouse=True, scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stands for /dev/shm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "MEMORY", tmp_path_factory.mktemp("memory"))
        yield sharing.MEMORY


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sources that were read rather than mapped."""
    found: list[int] = []
    real = Store._read_all

    def read_all(self: Store, source: int, *arguments: object) -> object:
        found.append(source)
        return real(self, source, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_read_all", read_all)
    return found


@pytest.fixture(scope="module")
def mergers(zoo, zoo_bfloat16, tmp_path_factory):
    """By dtype: a merger of its own, one that read what it shares, one that maps it, and the models."""
    folder = tmp_path_factory.mktemp("folder")
    found = {}
    for dtype, refs in (("float32", zoo), ("bfloat16", zoo_bfloat16)):
        three = [Merger(refs[0], refs[1:], dtype, "cpu", shared=shared) for shared in (None, folder, folder)]
        found[dtype] = (*three, refs)
    return found


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(METHODS.names()),
    st.sampled_from(["float32", "bfloat16"]),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.integers(0, 3),
)
def test_candidates_are_the_same_bit_for_bit(mergers, name, dtype, weight, density, seed):
    own, reader, mapper, refs = mergers[dtype]
    method = METHODS.get(name)
    numbers = {"weight": weight, "density": density, "t": weight}
    numbers = {key: value for key, value in numbers.items() if any(spec.name == key for spec in method.parameters)}
    one = recipe(refs[: 1 + (method.max_experts or 3)], name, dtype, seed=seed, **numbers)
    for merger in (own, reader, mapper):
        merger.apply(one)
    assert same(state(own.model), state(reader.model))
    assert same(state(own.model), state(mapper.model))


def test_one_reads_and_counts_and_the_others_map(zoo_bfloat16, tmp_path, reads):
    refs, folder = zoo_bfloat16[::-1], tmp_path / "folder"  # in this order nobody has them
    one = Merger(refs[0], refs[1:], "bfloat16", "cpu", shared=folder)
    assert reads == [0, 1, 2, 3]
    two = Merger(refs[0], refs[1:], "bfloat16", "cpu", shared=folder)
    assert len(reads) == 4
    sources = recipe(refs, "della", density=0.4, dtype="bfloat16")
    for merger in (one, two):
        merger.apply(sources)
        merger.apply(recipe(refs, "ties", density=0.4, dtype="bfloat16"))
    held = [*one._store._buffers.values(), *(kept for _, kept in one._derived._kept.values())]
    again = [*two._store._buffers.values(), *(kept for _, kept in two._derived._kept.values())]
    assert len(held) == len(again) > 0
    tables = two._statistics._tables
    assert tables
    for table in tables.values():
        assert not any(array.flags.writeable for array in table.arrays)
    assert not any(gram.flags.writeable for gram in two._statistics._grams.values())


def test_what_nobody_needs_any_more_is_gone(zoo, tmp_path, memory):
    before, refs = set(memory.iterdir()), zoo[::-1]
    merger = Merger(refs[0], refs[1:], "float32", "cpu", shared=tmp_path / "folder")
    assert set(memory.iterdir()) > before
    del merger
    assert set(memory.iterdir()) == before
    assert not (tmp_path / "folder").exists()


def test_models_that_have_changed_are_read_again(zoo, copy_of, tmp_path):
    """Even in place, with the same size and times of modification."""
    folder = copy_of(zoo[1], "expert")
    expert, path = ModelRef(model=str(folder), name="expert"), folder / "model.safetensors"
    one = recipe([zoo[0], expert], "linear")
    first = Merger(zoo[0], [expert], "float32", "cpu", shared=tmp_path / "shared")
    before, data = path.stat(), path.read_bytes()
    tensors = {name: tensor * 2.0 for name, tensor in load_file(path).items()}
    save_file(tensors, tmp_path / "new.safetensors", metadata={"format": "pt"})
    with path.open("r+b") as file:
        file.write((tmp_path / "new.safetensors").read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(data) == path.stat().st_size
    second = Merger(zoo[0], [expert], "float32", "cpu", shared=tmp_path / "shared")
    first.apply(one)
    second.apply(one)
    name = "model.norm.weight"
    assert torch.equal(second.model.state_dict()[name], first.model.state_dict()[name] * 2.0)


def test_models_that_change_while_they_are_read_are_refused(zoo, copy_of, tmp_path, memory):
    expert = ModelRef(model=str(copy_of(zoo[1], "expert")), name="expert")
    merger = Merger(zoo[0], [expert], "float32", "cpu", shared=tmp_path / "shared", load=False)
    (Path(expert.model) / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"models must not change while they are read, but .*expert did"):
        merger.load()


def test_weights_that_are_not_finite_are_refused_by_all_alike(zoo, copy_of, tmp_path, reads):
    folder = copy_of(zoo[1])
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:2] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    bad = ModelRef(model=str(folder), name="bad")
    keeper = Merger(zoo[0], [bad], "float32", "cpu", shared=tmp_path, allow_nonfinite=True)
    with pytest.raises(InputError, match=r"expert 'bad' holds 2 NaN or infinite values in model\.norm\.weight"):
        Merger(zoo[0], [bad], "float32", "cpu", shared=tmp_path)
    assert reads == [0, 1]
    assert keeper._store.largest < 1e9


def test_without_room_every_process_has_its_own_and_says_so_once(zoo, tmp_path, monkeypatch, memory):
    before = len(list(memory.iterdir()))
    monkeypatch.setattr(sharing, "_free", lambda place: 1000)
    told: list[str] = []
    refs = zoo[1:]  # in this order nobody has them
    merger = Merger(refs[0], refs[1:], "float32", "cpu", shared=tmp_path, workers=3, tell=told.append)
    assert not merger.memory.shares
    assert len([line for line in told if line.startswith("memory is not shared between processes: that takes ")]) == 1
    assert any("3 times" in line for line in told)
    assert len(list(memory.iterdir())) == before + 1  # the plan
    merger.apply(recipe(refs, "ties", density=0.5))


def test_processes_take_the_plan_of_the_first(zoo, tmp_path, monkeypatch):
    told: list[str] = []
    options = {"dtype": "float32", "device": "cpu", "shared": tmp_path, "tell": told.append}
    first = Merger(zoo[0], zoo[1:], workers=2, load=False, **options)
    monkeypatch.setattr("evomerge.engine.memory.available", lambda: 10)
    assert Merger(zoo[0], zoo[1:], workers=2, load=False, **options).memory == first.memory
    with pytest.raises(InputError, match=r"free memory must be at least .* for 3 workers"):
        Merger(zoo[0], zoo[1:], workers=3, load=False, **options)
    with pytest.raises(InputError, match="workers must be at least 1, but got 0"):
        Merger(zoo[0], zoo[1:], workers=0, load=False, **options)


@given(st.integers(1, 9), st.integers(0, 12_000), st.booleans(), st.sets(st.integers(0, 3)))
def test_a_plan_counts_shared_sources_once_and_the_rest_for_each_worker(workers, megabytes, shares, present):
    numel, limit = 64 * MILLION // 1024 * 1024, megabytes * MILLION
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evomerge.engine.memory.resident", lambda: 200 * MILLION)
        patch.setattr("evomerge.engine.memory.unshared", lambda: 100 * MILLION)
        big = arena(1024)
        big.rows = numel // 1024
        crowd = Crowd(workers, 1, shares, present if shares else ())
        try:
            plan = plan_memory([big], NAMES, limit=limit, ranked=True, crowd=crowd)
        except InputError:
            return  # the limit does not hold what has to be there
    assert plan.host <= limit
    assert plan.workers == workers
    for place, part in enumerate(part for part in plan.parts if part.source and part.what != "critical densities"):
        once = int(place not in present) if shares else workers
        assert part.copies == (1 if part.place == "disk" else once)
    for part in plan.parts:
        if not part.source:
            expected = {"this process, libraries included": 1, "the other workers' processes": workers - 1}
            assert part.copies == expected.get(part.what, workers)


def test_workers_on_one_gpu_count_on_it(monkeypatch):
    big = arena(1024)
    numel = 64 * MILLION // 1024 * 1024
    big.rows, big.kind = numel // 1024, big.kind._replace(device=torch.device("cuda"))
    monkeypatch.setattr("evomerge.engine.memory.available", lambda: 10**12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * numel, 16 * numel))
    tiers = {n: plan_memory([big], NAMES, crowd=Crowd(4, n, shares=True)).tiers for n in (1, 2, 4)}
    assert tiers == {
        1: ("device",) * 4,
        2: ("device", "device", "host", "host"),
        4: ("host",) * 4,
    }
    plan = plan_memory([big], NAMES, crowd=Crowd(4, 4, shares=True))
    assert [part.copies for part in plan.parts if part.place == "pinned host"] == [1] * 4


@pytest.mark.parametrize(
    ("workers", "gpus", "given_on_gpu", "expected"), [(4, 4, None, 1), (4, 3, None, 2), (1, 8, None, 1), (4, 2, 4, 4)]
)
def test_gpus_are_taken_in_turns_unless_it_is_said(monkeypatch, workers, gpus, given_on_gpu, expected):
    one = SimpleNamespace(kind=SimpleNamespace(device=torch.device("cuda", 0)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found = common_plan(partial(lambda crowd: crowd), [one], None, workers, given_on_gpu)  # type: ignore[arg-type, list-item]
    assert found == Crowd(workers, expected)


def unshared() -> int:
    """Bytes that no other process has (USS)."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"Private_\w+:\s+(\d+) kB", text))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell what is shared")
def test_three_processes_hold_the_weights_once(tmp_path):
    from evomerge.engine.writer import TensorSpec, write_shards
    from tests.engine.tiny import build

    config = llama(vocab_size=64, hidden_size=512, intermediate_size=3072, num_attention_heads=8)
    named = dict(build(config, 0).named_parameters())
    specs = [TensorSpec(key, tensor.dtype, tuple(tensor.shape)) for key, tensor in named.items()]
    for number, name in enumerate(("base", "math", "lang")):
        (tmp_path / name).mkdir()
        pieces = lambda key, number=number: iter([named[key].reshape(-1) + number])  # noqa: E731
        write_shards(tmp_path / name, specs, pieces, 2**40)
        config.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    refs = [ModelRef(model=str(tmp_path / name)) for name in ("base", "math", "lang")]
    size = sum(tensor.numel() * 4 for tensor in named.values())
    ready, results = _FORK.Barrier(3), _FORK.Queue()

    def work() -> None:
        torch.set_num_threads(1)
        before = unshared()
        ready.wait()
        merger = Merger(refs[0], refs[1:], "float32", "cpu", shared=tmp_path / "shared", workers=3)
        merger.apply(recipe(refs, "linear"))
        ready.wait()
        results.put((unshared() - before, float(merger.model.lm_head.weight.detach().double().sum())))
        ready.wait()

    processes = [_FORK.Process(target=work, daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len({candidate for _, candidate in found}) == 1
    assert size > 60 * MILLION
    for grown, _ in found:
        assert grown - size < 0.25 * 3 * size, f"{grown / size:.2f} of a model, its candidate included"


@pytest.fixture
def cudart(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for CUDA's: `pinned` are the addresses and sizes, `error` what the next call fails with."""
    fake = SimpleNamespace(pinned={}, error=None, waited=0)

    def register(address: int, nbytes: int, flags: int) -> int:
        assert flags == 8
        fake.pinned[address] = nbytes
        return 0

    def check(code: int) -> None:
        if fake.error:
            raise RuntimeError(fake.error)

    def wait() -> None:
        fake.waited += 1

    fake.cudaHostRegister = register
    fake.cudaHostUnregister = fake.pinned.pop
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    return fake


def test_shared_memory_is_pinned_as_long_as_a_tensor_is_over_it(cudart, tmp_path):
    held = sharing.Sharing(tmp_path, "key").hold("pinned", 8192, lambda contents, alive: {})
    assert held is not None
    assert mapped.pin(held.contents)
    assert list(cudart.pinned.values()) == [8192]
    assert all(address % 4096 == 0 for address in cudart.pinned)
    tensor = mapped.tensor_over(held.contents[4096:], torch.bfloat16)
    del held
    assert cudart.pinned
    assert cudart.waited == 0
    del tensor
    assert not cudart.pinned
    assert cudart.waited == 1


def test_shared_memory_that_cannot_be_pinned_is_used_as_it_is(cudart, caplog, monkeypatch):
    forgotten: list[bool] = []
    monkeypatch.setattr(mapped, "_forget_error", lambda: forgotten.append(True))
    cudart.error = "operation not supported\nmore"
    assert not mapped.pin(np.zeros(4096, np.uint8))
    assert "shared memory cannot be pinned, and copies to the GPU are slower: operation not supported" in caplog.text
    assert "more" not in caplog.text
    assert forgotten


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["linear", "ties", "della", "slerp"])
def test_a_gpu_streams_from_shared_memory(zoo_bfloat16, tmp_path, monkeypatch, caplog, method):
    candidates = 2 * 2  # of bfloat16 and of two workers
    room = "evomerge.engine.memory._free_on_device"
    monkeypatch.setattr(room, lambda arenas: candidates * arenas[0].numel * len(arenas))
    refs = zoo_bfloat16[: 1 + (METHODS.get(method).max_experts or 3)]
    one = recipe(refs, method, "bfloat16")
    cpu = Merger(refs[0], refs[1:], "bfloat16", "cpu")
    cpu.apply(one)
    for _ in range(2):
        merger = Merger(refs[0], refs[1:], "bfloat16", "cuda", shared=tmp_path, workers=2)
        assert "host" in merger.memory.tiers
        merger.apply(one)
        for name, tensor in cpu.model.state_dict().items():
            torch.testing.assert_close(merger.model.state_dict()[name].cpu(), tensor)
        held = [buffer for buffer in merger._store._buffers.values() if buffer.device.type == "cpu"]
        assert all(buffer.is_pinned() for buffer in held) or "cannot be pinned" in caplog.text
    del merger, held
    torch.cuda.synchronize()


@pytest.mark.exhaustive
def test_processes_killed_at_any_moment_leave_the_others_right(zoo_bfloat16, tmp_path, memory):
    """Forty times four processes, of which two are killed while they read, count or merge."""
    refs, random = zoo_bfloat16[::-1], np.random.default_rng(0)
    one = recipe(refs, "della", "bfloat16", density=0.4)
    alone = Merger(refs[0], refs[1:], "bfloat16", "cpu")
    alone.apply(one)
    want = tensors_digest(alone.model.state_dict())
    before = set(memory.iterdir())

    def work(results: Any = None) -> None:
        torch.set_num_threads(1)
        merger = Merger(refs[0], refs[1:], "bfloat16", "cpu", shared=tmp_path / "shared", workers=4)
        merger.apply(one)
        if results is not None:  # who is killed might hold the queue's lock
            results.put(tensors_digest(merger.model.state_dict()))

    begun = time.monotonic()
    undisturbed = _FORK.Process(target=work, daemon=True)
    undisturbed.start()
    undisturbed.join(120)
    seconds = time.monotonic() - begun
    killed_early = 0
    for _ in range(40):
        results = _FORK.SimpleQueue()
        processes = [_FORK.Process(target=work, args=(results if i >= 2 else None,), daemon=True) for i in range(4)]
        for process in processes:
            process.start()
        for process in processes[:2]:
            process.join(float(random.uniform(0.0, seconds)))
            killed_early += process.exitcode is None
            process.kill()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes[2:]] == [0, 0]
        found = [results.get() for _ in range(2)]
        assert found == [want] * 2
        sharing.sweep(tmp_path / "shared")
        assert set(memory.iterdir()) == before
    assert killed_early > 40
