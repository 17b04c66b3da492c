"""The live model: its parameters are views of arenas, on the device where each module lives."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from evomerge.engine import Merger, ModelRef
from evomerge.engine.alignment import align
from evomerge.engine.arena import NARROW, SMALL, WIDE, Arena, Item, Kind, arrange, width_of
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.live import LiveModel, device_of
from evomerge.engine.model import choose_devices
from evomerge.errors import InputError
from tests.engine.tiny import family, recipe, save

CPU, META = torch.device("cpu"), torch.device("meta")


def live_of(ref: ModelRef, devices: dict[str, torch.device] | None = None) -> LiveModel:
    live = LiveModel(align(open_checkpoint(ref), []), torch.float32, devices or {"": CPU})
    live.allocate()
    return live


def addresses(live: LiveModel) -> set[int]:
    return {out.untyped_storage().data_ptr() for out in live.outs}


def test_parameters_share_memory_with_their_arenas(zoo):
    live = live_of(zoo[0])
    for out in live.outs:
        out.fill_(3.0)
    live.settle()
    for parameter in live.model.parameters():
        assert parameter.untyped_storage().data_ptr() in addresses(live)
        assert (parameter == 3.0).all()
    assert live.model.lm_head.weight is live.model.model.embed_tokens.weight


@pytest.mark.parametrize(("hidden", "inside"), [(16, False), (32, True)])
def test_fused_parameters_share_memory_where_their_rows_allow_it(hidden, inside, tmp_path):
    """Mixtral's experts are one tensor in memory; 24 x 16 elements are whole rows, and so are 24 x 32."""
    config = MixtralConfig(
        vocab_size=64, hidden_size=hidden, intermediate_size=24 if inside else 23, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=3,
    )  # fmt: skip
    refs = family(tmp_path, config)[:3]
    live = live_of(refs[0])
    fused = live.model.model.layers[0].mlp.experts.gate_up_proj
    assert (fused.untyped_storage().data_ptr() in addresses(live)) == (inside or (23 * hidden) % NARROW == 0)
    merger = Merger(refs[0], refs[1:], "float32", "cpu")
    merger.apply(recipe(refs, "linear", weight={"math": 1.0, "lang": 0.0}))
    want = AutoModelForCausalLM.from_pretrained(refs[1].model, dtype=torch.float32).state_dict()
    for name, tensor in merger.model.state_dict().items():
        assert torch.equal(tensor, want[name]), name


def test_odd_fused_parameters_have_memory_of_their_own(tmp_path):
    config = MixtralConfig(
        vocab_size=64, hidden_size=6, intermediate_size=5, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, num_local_experts=3, head_dim=6,
    )  # fmt: skip
    live = live_of(ModelRef(model=str(save(tmp_path / "odd", config, 0))))
    fused = live.model.model.layers[0].mlp.experts.gate_up_proj
    assert fused.untyped_storage().data_ptr() not in addresses(live)
    for out in live.outs:
        out.fill_(2.0)
    live.settle()
    assert (fused == 2.0).all()


def test_every_parameter_is_where_its_module_lives(zoo):
    devices = {"model.embed_tokens": CPU, "lm_head": CPU, "model.layers.0": CPU, "model.layers": META, "model": CPU}
    live = LiveModel(align(open_checkpoint(zoo[0]), []), torch.float32, devices)
    for arena in live.arenas:
        for segment in arena.segments:
            assert arena.kind.device == device_of(segment.name, devices), segment.name
    assert {arena.kind.device.type for arena in live.arenas} == {"cpu", "meta"}
    with pytest.raises(KeyError, match="other"):
        device_of("other.weight", devices)


def test_balanced_spreads_whole_layers_over_all_gpus(zoo, monkeypatch):
    alignment = align(open_checkpoint(zoo[0]), [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    sizes = {0: 14_000, 1: 10**9, "cpu": 10**12}
    monkeypatch.setattr("accelerate.utils.get_balanced_memory", lambda *args, **kwargs: sizes)
    devices = choose_devices("balanced", alignment, "float32")
    assert set(devices.values()) == {torch.device("cuda", 0), torch.device("cuda", 1)}
    for layer in range(3):
        names = [slot.name for slot in alignment.layout.slots if slot.place.layer == layer]
        assert len({device_of(name, devices) for name in names}) == 1
    assert choose_devices("cuda:1", alignment, "float32") == {"": torch.device("cuda", 1)}


def test_rows_of_an_arena_belong_to_one_parameter_each():
    kind = Kind(NARROW, (torch.float32,), torch.float32, CPU)
    arena = Arena(kind, [("a", (5, 7)), ("empty", (0, 3)), ("scalar", ()), ("b", (32,))])
    assert [(s.first, s.rows, s.numel) for s in arena.segments] == [(0, 3, 35), (3, 0, 0), (3, 1, 1), (4, 2, 32)]
    assert arena.parameter.tolist() == [0, 0, 0, 2, 3, 3]
    assert arena.number.tolist() == [0, 1, 2, 0, 0, 1]
    buffer = torch.arange(arena.numel).view(arena.rows, NARROW)
    assert arena.segments[0].view(buffer).tolist() == torch.arange(35).view(5, 7).tolist()
    assert arena.segments[3].flat(buffer).tolist() == list(range(64, 96))


def test_kinds_have_arenas_of_their_own():
    wide = Kind(width_of(SMALL), (torch.bfloat16,), torch.bfloat16, CPU)
    narrow = Kind(width_of(SMALL - 1), (torch.bfloat16,), torch.bfloat16, CPU)
    other = wide._replace(dtypes=(torch.float32,))
    items = [Item("a", (SMALL,), wide), Item("b", (3,), narrow), Item("c", (SMALL,), other), Item("d", (SMALL,), wide)]
    arenas = arrange(items)
    assert [[segment.name for segment in arena.segments] for arena in arenas] == [["a", "d"], ["b"], ["c"]]
    assert [arena.kind.width for arena in arenas] == [WIDE, NARROW, WIDE]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_transformers_keeps_in_float32_stays_so(dtype, zoo, monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", {"input_layernorm"})
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules", {"o_proj"})
    want = AutoModelForCausalLM.from_pretrained(zoo[0].model, dtype=getattr(torch, dtype))
    merger = Merger(zoo[0], zoo[1:2], dtype, "cpu")
    merger.apply(recipe(zoo[:2], "linear", dtype, weight=0.0))
    for name, tensor in want.state_dict().items():
        live = merger.model.state_dict()[name]
        assert live.dtype == tensor.dtype, name
        assert torch.equal(live, tensor), name
    assert merger.model.model.layers[0].input_layernorm.weight.dtype == torch.float32


@pytest.mark.parametrize("text", ["[]", "{", "7"])
def test_a_generation_config_that_is_none_is_wrong_input_in_one_line(zoo, tmp_path, text):
    folder = tmp_path / "model"
    shutil.copytree(zoo[0].model, folder)
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=r"generation_config\.json must be readable by transformers") as refused:
        live_of(ModelRef(model=str(folder)))
    assert "\n" not in str(refused.value)
