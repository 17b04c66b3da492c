"""Every source, read through its alignment, must compute what transformers computes with the source itself."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig

from evomerge.engine.alignment import Alignment, align
from evomerge.engine.checkpoint import SINGLE, open_checkpoint
from evomerge.engine.headers import read_header
from evomerge.engine.layout import layout_of
from evomerge.engine.low_rank import LowRankReading
from evomerge.engine.readings import StoredReading, WeightFile, ZeroReading, equal, whole
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from tests.engine.tiny import family, llama, save, tokenizer

PARAMETER = "model.layers.1.mlp.up_proj.weight"
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def aligned(*refs: ModelRef, tokenizer: str = "base") -> Alignment:
    base, *experts = (open_checkpoint(ref) for ref in refs)
    return align(base, experts, tokenizer)


def refused(*refs: ModelRef, tokenizer: str = "base") -> str:
    with pytest.raises(InputError) as raised:
        aligned(*refs, tokenizer=tokenizer)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def edit(folder: Path, change) -> ModelRef:
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return ModelRef(model=str(folder))


def configure(folder: Path, **changes) -> ModelRef:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return ModelRef(model=str(folder))


def live(alignment: Alignment, source: int) -> torch.nn.Module:
    """The candidate's model with one source's readings."""
    model = AutoModelForCausalLM.from_config(alignment.config, dtype=torch.float32)
    with torch.no_grad():
        for slot in layout_of(model).slots:
            slot.live.copy_(whole(alignment.readings[source][slot.name]).float())
    return model.eval()


def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


IDS = [1, 5, 9, 30, 2, 63]


def computes_the_same(alignment: Alignment, source: int) -> bool:
    folder = alignment.checkpoints[source].folder
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return torch.allclose(logits(live(alignment, source), IDS), logits(own, IDS), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_readings_are_the_files_bit_for_bit(tmp_path, dtype):
    refs = family(tmp_path, llama(tie_word_embeddings=False), dtype, max_shard_size="4KB")
    found = aligned(*refs)
    assert found.notes == ()
    assert found.config.vocab_size == 64
    for ref, checkpoint, readings in zip(refs, found.checkpoints, found.readings, strict=True):
        stored = {name: t for path in Path(ref.model).glob("*.safetensors") for name, t in load_file(path).items()}
        assert checkpoint.name == ref.name
        assert readings.keys() == stored.keys() == {slot.name for slot in found.layout.slots}
        for name, tensor in stored.items():
            assert (readings[name].shape, readings[name].dtype) == (tuple(tensor.shape), dtype)
            assert not readings[name].computed
            assert torch.equal(whole(readings[name]), tensor)


def test_sources_keep_their_own_dtypes(tmp_path):
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
    refs = [ModelRef(model=str(save(tmp_path / str(i), llama(), i, dtype))) for i, dtype in enumerate(dtypes)]
    found = aligned(*refs)
    assert [readings[PARAMETER].dtype for readings in found.readings] == dtypes


@pytest.mark.parametrize(
    "config",
    [
        llama(),
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2),
        MixtralConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        ),
    ],
    ids=["llama", "gpt2", "mixtral"],
)
def test_every_source_computes_what_it_does_alone(tmp_path, config):
    found = aligned(*family(tmp_path, config))
    assert all(computes_the_same(found, source) for source in range(4))


def low_rank(rows: int, columns: int, transpose: bool = False) -> LowRankReading:
    factors = (torch.randn(3, rows if transpose else columns), torch.randn(columns if transpose else rows, 3))
    return LowRankReading(Tensor(torch.randn(rows, columns)), *map(Tensor, factors), 0.37, transpose)


class Tensor:
    """A reading of a tensor in memory."""

    computed = False

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.shape, self.dtype = tensor, tuple(tensor.shape), tensor.dtype

    def fill(self, out: torch.Tensor, start: int) -> None:
        out.copy_(self.tensor.reshape(-1)[start : start + out.numel()])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 24 * 16 - 1), st.integers(0, 24 * 16), st.sampled_from([7, 16, 40, 10**6]), st.booleans())
def test_pieces_of_a_low_rank_weight_do_not_depend_on_where_they_begin(start, length, block, transpose):
    torch.manual_seed(start)
    reading = low_rank(24, 16, transpose)
    reading._rows = max(1, block // 16)
    want = whole(reading).view(-1)[start : start + length]
    got = torch.empty_like(want)
    fresh = LowRankReading(reading._weight, reading._a, reading._b, 0.37, transpose)
    fresh._rows = reading._rows
    fresh.fill(got, start)
    assert torch.equal(got, want)


@pytest.mark.parametrize("transpose", [False, True])
def test_a_low_rank_weight_of_many_blocks(transpose):
    reading = low_rank(1200, 700, transpose)
    delta = reading._b.tensor @ reading._a.tensor
    want = reading._weight.tensor + 0.37 * (delta.T if transpose else delta)
    torch.testing.assert_close(whole(reading), want, rtol=1e-5, atol=1e-5)
    assert reading.dtype == torch.float32


def stored(ref: ModelRef, name: str) -> StoredReading:
    path = Path(ref.model) / SINGLE
    return StoredReading(WeightFile(path), read_header(path)[name])


def test_any_piece_of_a_file(zoo):
    reading, want = stored(zoo[0], PARAMETER), load_file(Path(zoo[0].model) / SINGLE)[PARAMETER].view(-1)
    for start, stop in [(0, 384), (0, 0), (384, 384), (5, 6), (17, 300)]:
        out = torch.full((stop - start,), 7.0)
        reading.fill(out, start)
        assert torch.equal(out, want[start:stop])


def test_short_reads_go_on(zoo, monkeypatch):
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, offset: read(file, [into[0][:5]], offset))
    assert torch.equal(whole(stored(zoo[0], PARAMETER)), load_file(Path(zoo[0].model) / SINGLE)[PARAMETER])


def test_a_file_that_has_become_shorter(zoo, copy_of):
    folder = copy_of(zoo[0])
    reading = aligned(ModelRef(model=str(folder))).readings[0]["model.norm.weight"]
    os.truncate(folder / SINGLE, 100)
    with pytest.raises(InputError, match=r"must hold \d+ bytes, but holds 100: it was changed"):
        whole(reading)


def test_a_file_that_is_gone(zoo, copy_of):
    folder = copy_of(zoo[0])
    reading = aligned(ModelRef(model=str(folder))).readings[0]["model.norm.weight"]
    (folder / SINGLE).unlink()
    with pytest.raises(InputError, match="must be readable, but: No such file"):
        whole(reading)


def test_threads_may_read_at_once(zoo):
    found = aligned(*zoo)
    jobs = [(source, name) for source in range(4) for name in found.readings[source]] * 5
    random.Random(0).shuffle(jobs)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda job: whole(found.readings[job[0]][job[1]]), jobs))
    for (source, name), tensor in zip(jobs, got, strict=True):
        assert torch.equal(tensor, found.checkpoints[source].tensor(name))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_files_are_not_mapped_and_are_closed(zoo, copy_of):
    folder = copy_of(zoo[0])
    found = aligned(ModelRef(model=str(folder)))
    kept = [whole(reading) for reading in found.readings[0].values()]
    assert kept
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert str(folder / SINGLE) in held_open()
    del found
    assert str(folder / SINGLE) not in held_open()


def held_open() -> list[str]:
    return [os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in os.listdir("/proc/self/fd")]


def test_equal_compares_values_shapes_and_dtypes():
    one = torch.arange(12.0)
    assert equal(Tensor(one), Tensor(one.clone()), chunk=5)
    assert not equal(Tensor(one), Tensor(one.view(3, 4)))
    assert not equal(Tensor(one), Tensor(one.double()))
    assert not equal(Tensor(one), Tensor(torch.cat([one[:11], one[:1]])), chunk=5)


def twice(folder: Path) -> ModelRef:
    return edit(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))


KINDS = {
    "tied": lambda folder, seed: ModelRef(model=str(save(folder, llama(), seed))),
    "twice": lambda folder, seed: twice(save(folder, llama(), seed)),
    "equal": lambda folder, seed: configure(Path(twice(save(folder, llama(), seed)).model), tie_word_embeddings=False),
    "apart": lambda folder, seed: ModelRef(model=str(save(folder, llama(tie_word_embeddings=False), seed))),
    "apart, though tied by its configuration": lambda folder, seed: configure(
        save(folder, llama(tie_word_embeddings=False), seed), tie_word_embeddings=True
    ),
}


@pytest.mark.parametrize("base", KINDS)
@pytest.mark.parametrize("expert", KINDS)
def test_ties(base, expert, tmp_path):
    refs = [KINDS[base](tmp_path / "base", 0), KINDS[expert](tmp_path / "math", 1)]
    found = aligned(*refs)
    apart = "apart" in base or "apart" in expert
    assert found.config.tie_word_embeddings is not apart
    assert (HEAD in found.readings[0]) is apart
    assert all(computes_the_same(found, source) for source in (0, 1))
    asked = base in ("tied", "twice", "apart, though tied by its configuration")
    noted = asked is apart or (apart and "tied" in (base, expert))
    assert bool(found.notes) is noted
    assert len(found.notes) <= 1


def test_a_tie_that_is_undone_is_noted(zoo, tmp_path):
    found = aligned(zoo[0], zoo[1], KINDS["apart"](tmp_path / "odd", 1))
    assert found.notes == (
        "the candidate has a head apart from its embedding, since odd has one; base, math: the embedding counts as "
        "the head",
    )


def test_only_the_head_of_a_tied_model_is_stored(zoo, copy_of):
    def rename(tensors):
        tensors[HEAD] = tensors.pop(EMBEDDING)

    found = aligned(zoo[0], edit(copy_of(zoo[1]), rename))
    assert found.notes == ()
    assert torch.equal(whole(found.readings[1][EMBEDDING]), open_checkpoint(zoo[1]).tensor(EMBEDDING))


def test_a_head_that_is_lacking_counts_as_the_base_s(tmp_path):
    untied = llama(tie_word_embeddings=False)
    refs = [ModelRef(model=str(save(tmp_path / name, untied, i))) for i, name in enumerate(("base", "math"))]
    edit(Path(refs[1].model), lambda tensors: tensors.pop(HEAD))
    found = aligned(*refs)
    assert found.notes == (f"math: lacks {HEAD}; counted as the base's",)
    assert found.readings[1][HEAD] is found.readings[0][HEAD]
    edit(Path(refs[0].model), lambda tensors: tensors.pop(HEAD))
    assert f"must hold {HEAD}, but lacks it" in refused(*refs)


def test_biases_that_only_some_have(tmp_path):
    plain, biased = llama(), llama(attention_bias=True, mlp_bias=True)
    refs = [
        ModelRef(model=str(save(tmp_path / name, config, i)))
        for i, (name, config) in enumerate([("base", plain), ("math", biased), ("lang", plain)])
    ]
    for order in (refs, refs[::-1], [refs[1], refs[0], refs[2]]):
        found = aligned(*order)
        assert found.config.attention_bias
        assert found.config.mlp_bias
        assert all(computes_the_same(found, source) for source in range(3))
    found = aligned(*refs)
    name = "model.layers.0.self_attn.q_proj.bias"
    assert isinstance(found.readings[0][name], ZeroReading)
    assert not whole(found.readings[2][name]).any()
    assert whole(found.readings[1][name]).any()
    assert "math: its mlp_bias is true, so the candidate has these biases" in found.notes
    assert f"lang: lacks {name} and 20 more; counted as zeros" in found.notes


def test_zeros_have_the_dtype_of_the_bias_that_there_is(tmp_path):
    base = ModelRef(model=str(save(tmp_path / "base", llama(), 0)))
    biased = ModelRef(model=str(save(tmp_path / "math", llama(attention_bias=True), 1, torch.bfloat16)))
    reading = aligned(base, biased).readings[0]["model.layers.0.self_attn.q_proj.bias"]
    assert reading.dtype == torch.bfloat16
    out = torch.ones(16, dtype=torch.bfloat16)
    reading.fill(out[3:], 3)
    assert out.tolist() == [1.0] * 3 + [0.0] * 13


def test_what_an_expert_lacks_counts_as_the_base_s(zoo, copy_of):
    def remove(tensors):
        del tensors[PARAMETER], tensors["model.norm.weight"], tensors["model.layers.0.mlp.up_proj.weight"]

    found = aligned(zoo[0], edit(copy_of(zoo[1], "odd"), remove))
    assert found.notes == ("odd: lacks model.layers.0.mlp.up_proj.weight and 2 more; counted as the base's",)
    assert torch.equal(whole(found.readings[1][PARAMETER]), open_checkpoint(zoo[0]).tensor(PARAMETER))


def test_what_the_base_lacks_is_refused(zoo, copy_of):
    broken = edit(copy_of(zoo[0]), lambda tensors: tensors.pop(PARAMETER))
    assert f"model 'broken' ({broken.model}) must hold {PARAMETER}, but lacks it" == refused(broken, *zoo[1:])


def test_integer_buffers_must_be_equal(zoo, copy_of):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    refs = [edit(copy_of(ref, ref.name), lambda tensors: tensors.update({name: torch.arange(4)})) for ref in zoo[:2]]
    assert aligned(*refs).notes == ()
    edit(Path(refs[1].model), lambda tensors: tensors.update({name: torch.arange(1, 5)}))
    assert f"must hold the base's {name}, since buffers of I64 are not merged" in refused(*refs)
    edit(Path(refs[1].model), lambda tensors: tensors.pop(name))
    assert aligned(*refs).notes == ()
    assert aligned(*refs[::-1]).notes == (f"base: {name} left out, buffers that the base's files lack",)


def test_other_buffers_that_differ_are_noted(zoo, copy_of):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    refs = [
        edit(copy_of(ref, ref.name), lambda t, fill=i: t.update({name: torch.full((4,), float(fill))}))
        for i, ref in enumerate(zoo[:2])
    ]
    assert aligned(*refs).notes == (f"math: differs in the buffer {name}; the candidate has the base's",)


def test_settings_that_differ_are_noted(zoo, copy_of):
    folder = copy_of(zoo[1], "odd")
    configure(folder, rms_norm_eps=1e-3, attention_dropout=0.5, use_cache=False, max_position_embeddings=77)
    note = "odd: differs in max_position_embeddings, rms_norm_eps; the candidate has the base's"
    assert aligned(zoo[0], ModelRef(model=str(folder))).notes == (note,)


def test_numbers_of_heads_must_agree(zoo, tmp_path):
    config = llama(num_attention_heads=4, num_key_value_heads=2)
    assert "must have the base's num_attention_heads 2, but has 4" in refused(
        zoo[0], ModelRef(model=str(save(tmp_path / "odd", config, 1)))
    )


def test_quantized_expert(zoo, copy_of):
    odd = configure(copy_of(zoo[1]), quantization_config={"quant_method": "gptq"})
    assert "must hold unquantized weights" in refused(zoo[0], odd)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_any_number_of_experts(zoo, count):
    experts = [ModelRef(model=zoo[1 + i % 3].model, name=f"expert {i}") for i in range(count)]
    found = aligned(zoo[0], *experts)
    assert len(found.readings) == len(found.checkpoints) == count + 1
    for expert, readings in zip(experts, found.readings[1:], strict=True):
        assert torch.equal(whole(readings[PARAMETER]), open_checkpoint(expert).tensor(PARAMETER))


def test_the_tokenizer_must_be_known(zoo):
    message = refused(*zoo, tokenizer="mat")
    assert message == "tokenizer must be one of base, code, lang, math, union, but got 'mat'; did you mean 'math'?"


def test_the_base_needs_a_tokenizer(zoo, copy_of):
    folder = copy_of(zoo[0])
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "must hold a tokenizer, but has none" in refused(ModelRef(model=str(folder)), zoo[1])


def test_the_base_s_configuration_stays_as_it_is(zoo, tmp_path):
    base, odd = open_checkpoint(zoo[0]), open_checkpoint(KINDS["apart"](tmp_path / "odd", 1))
    before = base.pretrained_config.to_dict()
    assert not align(base, [odd]).config.tie_word_embeddings
    assert base.pretrained_config.to_dict() == before


def test_the_helpers_see_what_differs(zoo):
    """`computes_the_same` can fail."""
    found = aligned(*zoo)
    swapped = Alignment(found.config, tokenizer(), found.layout, found.readings[::-1], found.checkpoints, ())
    assert not computes_the_same(swapped, 0)
