"""The memory plan, and merges with less memory than their sources take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.engine import Merger
from evomerge.engine.arena import Arena, Kind
from evomerge.engine.export import save_contents
from evomerge.engine.materialize import StreamedMerger
from evomerge.engine.memory import COMPILER, MIN_STAGE, SHARE_FOR_MERGING, WORKING, available, plan_memory, resident
from evomerge.engine.store import Store
from evomerge.errors import InputError
from evomerge.sizes import parse_size, readable
from tests.engine.test_materialize import same, state
from tests.engine.tiny import recipe

MILLION = 10**6
NAMES = ("base", "math", "lang", "code")
CPU = torch.device("cpu")


def arena(numel: int, dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,) * 4, device: torch.device = CPU) -> Arena:
    return Arena(Kind(1024, dtypes, torch.bfloat16, device), [("weight", (numel // 1024, 1024))])


def spare(numel: int) -> int:
    """What has to be there besides the sources of an arena with so many elements, with the smallest pieces."""
    item = 4 * 2 * max(torch.get_num_threads(), 1) + 4
    return resident() + WORKING + COMPILER + 2 * numel + item * min(MIN_STAGE, numel)


def test_everything_is_in_memory_where_there_is_room():
    numel = 1024 * 1000
    plan = plan_memory([arena(numel)], NAMES)
    assert plan.tiers == ("device",) * 4
    assert [part.nbytes for part in plan.parts[2:]] == [2 * numel] * 5  # the candidate and four sources
    assert plan.host == sum(part.nbytes for part in plan.parts)
    assert plan.device == 0


@pytest.mark.parametrize("fit", [0, 1, 2, 3, 4])
def test_sources_stay_in_memory_in_order_as_far_as_they_fit(fit):
    numel = 64 * MILLION // 1024 * 1024
    slack = 20 * MILLION
    limit = spare(numel) + fit * 2 * numel + slack
    plan = plan_memory([arena(numel)], NAMES, limit=limit)
    assert plan.tiers == ("device",) * fit + ("disk",) * (4 - fit)
    assert plan.host <= limit
    assert plan.limit == limit
    assert f"limit {readable(limit)}" in plan.lines()[-1]


def test_critical_densities_are_kept_beside_sources_where_there_is_room():
    numel = 64 * MILLION // 1024 * 1024
    room = spare(numel) + 4 * 2 * numel + 20 * MILLION
    assert not plan_memory([arena(numel)], NAMES, limit=room, ranked=True).keeps_densities
    plan = plan_memory([arena(numel)], NAMES, limit=room + 3 * 2 * numel, ranked=True)
    assert plan.keeps_densities
    assert plan.parts[-1].nbytes == 3 * 2 * numel
    assert plan.host <= room + 3 * 2 * numel


def test_a_limit_that_leaves_no_room_is_refused_with_what_is_needed():
    numel = 64 * MILLION // 1024 * 1024
    with pytest.raises(InputError, match=r"memory_limit must be at least .*the candidate.*but is") as error:
        plan_memory([arena(numel)], NAMES, limit=resident() + WORKING + COMPILER)
    assert "\n" not in str(error.value)
    plan = plan_memory([arena(numel)], NAMES, limit=spare(0) - COMPILER + 4 * MILLION, in_memory=False)
    assert plan.tiers == ("disk",) * 4


def test_computed_sources_count_in_float32():
    plan = plan_memory([arena(1024, (torch.bfloat16, torch.float32))], NAMES[:2])
    assert [part.nbytes for part in plan.parts if part.source] == [2048, 4096]


@pytest.mark.parametrize("kind", ["device", "host", "disk"])
def test_tiers_of_a_gpu(kind, monkeypatch):
    numel = 64 * MILLION // 1024 * 1024
    free = {"device": 14 * numel, "host": 6 * numel / 0.75, "disk": 6 * numel / 0.75}[kind]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(free)))
    monkeypatch.setattr("evomerge.engine.memory.available", lambda: 10**12)
    limit = None if kind != "disk" else resident() + WORKING + COMPILER + 40 * MILLION
    big = Arena.__new__(Arena)
    big.__dict__ |= {**vars(arena(1024)), "rows": numel // 1024}
    big.kind = Kind(1024, (torch.bfloat16,) * 4, torch.bfloat16, torch.device("cuda"))
    plan = plan_memory([big], NAMES, limit=limit)
    assert (
        plan.tiers
        == {
            "device": ("device",) * 4,
            "host": ("device", "device", "host", "host"),
            "disk": ("device", "device", "disk", "disk"),
        }[kind]
    )


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "della", "nuslerp"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_candidates_do_not_depend_on_where_sources_are(method, dtype, zoo_bfloat16, monkeypatch):
    refs = zoo_bfloat16[:3]
    numbers = {"weight": 0.6, "density": 0.4} if method not in ("linear", "nuslerp") else {"weight": 0.6}
    options = {"row_wise": True} if method == "nuslerp" else {}
    one = recipe(refs, method, dtype, **numbers, options=options)
    whole = Merger(refs[0], refs[1:], dtype, "cpu")
    whole.apply(one)
    monkeypatch.setattr("evomerge.engine.memory.MIN_STAGE", 64)
    monkeypatch.setattr("evomerge.engine.memory.available", lambda: (WORKING + 60_000) / SHARE_FOR_MERGING)
    streamed = Merger(refs[0], refs[1:], dtype, "cpu")
    assert "disk" in streamed.memory.tiers
    assert streamed.memory.stage < 2000
    streamed.apply(one)
    assert same(state(whole.model), state(streamed.model))


def test_a_streamed_export_equals_the_one_from_memory(zoo_bfloat16, tmp_path, monkeypatch):
    refs = zoo_bfloat16
    one = recipe(refs, "ties", "bfloat16", weight=0.6, density=0.4)
    digests = []
    merger = Merger(refs[0], refs[1:], "bfloat16", "cpu")
    merger.apply(one)
    save_contents(merger.contents(), tmp_path / "whole", files=lambda digest: digests.append(digest) or {})
    monkeypatch.setattr("evomerge.engine.memory.MIN_STAGE", 64)
    monkeypatch.setattr("evomerge.engine.memory.available", lambda: (WORKING + 5_000) / SHARE_FOR_MERGING)
    streamed = StreamedMerger(refs[0], refs[1:], "bfloat16", "cpu")
    assert streamed.memory.tiers == ("disk",) * 4
    save_contents(streamed.contents(one), tmp_path / "streamed", files=lambda digest: digests.append(digest) or {})
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "streamed").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes(), name
    assert digests[0] == digests[1]


PEAK = """
import sys
import torch
from evomerge.engine.alignment import align
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.materialize import StreamedMerger
from evomerge.engine.export import save_contents
from evomerge.engine.recipe import Group, ModelRef, Recipe
from evomerge.engine import memory
torch.set_num_threads(1)
folder = sys.argv[1]
refs = [ModelRef(model=f"{folder}/{name}") for name in ("base", "math", "lang")]
align(open_checkpoint(refs[0]), [])  # imports what every merge needs
merger = StreamedMerger(refs[0], refs[1:], "float32", "cpu", memory_limit=memory.resident() + int(sys.argv[2]))
recipe = Recipe(base=refs[0], experts=tuple(refs[1:]), method="ties", dtype="float32",
                groups=(Group(parameters={"weight": 0.5, "density": 0.4}),))
save_contents(merger.contents(recipe), f"{folder}/out")
status = open("/proc/self/status").read()
print(merger.memory.host, int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak")
def test_a_model_larger_than_the_limit_is_merged_within_it(tmp_path):
    """Three float32 models of 101 MB each, and 110 MB more than the process itself takes."""
    from evomerge.engine.writer import TensorSpec, write_shards
    from tests.engine.tiny import build, llama, tokenizer

    config = llama(vocab_size=64, hidden_size=512, intermediate_size=4096, num_attention_heads=8)
    for seed, name in enumerate(("base", "math", "lang")):
        model = build(config, seed)
        (tmp_path / name).mkdir()
        named = dict(model.named_parameters())
        specs = [TensorSpec(key, tensor.dtype, tuple(tensor.shape)) for key, tensor in named.items()]
        write_shards(tmp_path / name, specs, lambda key, named=named: iter([named[key].reshape(-1)]), 2**40)
        config.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    size = sum(tensor.numel() * 4 for tensor in named.values())
    del model, named
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(110 * MILLION)], capture_output=True, text=True, check=True
    )
    planned, peak = (int(number) for number in out.stdout.split())
    assert size > 80 * MILLION
    assert peak < planned * 1.1


def test_what_lies_on_another_device_goes_through_pieces_of_the_hosts_memory(monkeypatch):
    monkeypatch.setattr("evomerge.engine.store.READ", 1000)
    pieces = []

    class Ones:
        dtype = torch.bfloat16

        def fill(self, out: torch.Tensor, start: int) -> None:
            assert out.device == CPU
            pieces.append((start, out.numel()))
            out.fill_(1.0)

    elsewhere = Arena(Kind(16, (torch.bfloat16,), torch.bfloat16, torch.device("meta")), [("weight", (7, 331))])
    store = Store([elsewhere], [{"weight": Ones()}], ["base"], ["device"])
    assert sorted(pieces) == [(0, 1000), (1000, 1000), (2000, 317)]
    assert store.largest == 1.0
    assert store.rows(elsewhere, 0, 0, 3).device.type == "meta"


@given(st.floats(0.001, 1e6), st.sampled_from(["", "B", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB"]))
def test_sizes_are_read_as_written(number, unit):
    factor = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[
        unit
    ]
    assert parse_size(f"{number:.3f} {unit}") == int(float(f"{number:.3f}") * factor)
    assert parse_size(f"{number:.3f}{unit.lower()}") == parse_size(f"{number:.3f}{unit}")


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1 XB", "1,5GB", "many"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match="a memory limit must be a positive size such as 6GB"):
        parse_size(text)


def test_what_the_system_says_is_plausible():
    assert 10 * MILLION < resident() < 10**12
    assert available() > 10 * MILLION
