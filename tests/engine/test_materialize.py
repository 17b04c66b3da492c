from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.engine import Merger, load_model, merge
from evomerge.engine import compiled as compiled_module
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.materialize import StreamedMerger
from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Group, ModelRef, Recipe
from evomerge.engine.reference import reference_merge
from evomerge.errors import CandidateError, InputError
from tests.engine.tiny import build, defaults, llama, recipe, tokenizer


@pytest.fixture(scope="module")
def merger(zoo):
    return Merger(zoo[0], zoo[1:], "float32", "cpu")


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.equal(one[name].view(torch.uint8), two[name].view(torch.uint8)) for name in one)


def loaded(ref: ModelRef, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return state(AutoModelForCausalLM.from_pretrained(ref.model, dtype=dtype))


def test_a_merger_starts_with_the_base(zoo):
    merger = Merger(zoo[0], zoo[1:], "float32", "cpu")
    assert same(state(merger.model), loaded(zoo[0]))
    assert merger.num_layers == 3
    assert merger.experts == ("math", "lang", "code")
    assert merger.tokenizer.get_vocab() == tokenizer().get_vocab()
    assert not merger.model.training
    assert not any(parameter.requires_grad for parameter in merger.model.parameters())


@pytest.mark.parametrize("name", METHODS.names())
def test_candidates_are_those_of_the_reference(name, merger, zoo):
    method = METHODS.get(name)
    refs = zoo[: 1 + (method.max_experts or 3)]
    numbers = {"weight": 0.6, "density": 0.4, "t": 0.3}
    numbers = {key: value for key, value in numbers.items() if any(spec.name == key for spec in method.parameters)}
    merger.apply(recipe(refs, name, seed=9, **numbers))
    base, *experts = (open_checkpoint(ref) for ref in refs)
    live = merger.model.state_dict()
    for key in base.names():
        want = reference_merge(
            name,
            base.tensor(key),
            {expert.name: expert.tensor(key) for expert in experts},
            defaults(method, len(experts), **numbers),
            parameter=key,
            seed=9,
        )
        torch.testing.assert_close(live[key].double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_expert_with_weight_1_is_that_expert_bit_for_bit(method, dtype, zoo_bfloat16):
    merger = Merger(zoo_bfloat16[0], zoo_bfloat16[1:], dtype, "cpu")
    for chosen in zoo_bfloat16[1:3]:
        weights = {ref.name: float(ref.name == chosen.name) for ref in zoo_bfloat16[1:]}
        merger.apply(recipe(zoo_bfloat16, method, dtype, weight=weights))
        assert same(state(merger.model), loaded(chosen, getattr(torch, dtype)))
    merger.apply(recipe(zoo_bfloat16, method, dtype, weight=0.0))
    assert same(state(merger.model), loaded(zoo_bfloat16[0], getattr(torch, dtype)))


def test_a_candidate_does_not_depend_on_what_came_before(merger, zoo):
    one = recipe(zoo, "ties", weight=0.5, density=0.3)
    merger.apply(one)
    first = state(merger.model)
    merger.apply(recipe(zoo, "linear"))
    assert not same(state(merger.model), first)
    merger.apply(one)
    assert same(state(merger.model), first)
    assert same(state(merge(one, device="cpu")), first)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp"])
def test_threads_segments_and_order_of_experts_do_not_matter(method, zoo, monkeypatch):
    refs = zoo[:2] if method == "slerp" else zoo
    numbers = {"t": 0.4} if method == "slerp" else {"weight": {"math": 0.5, "lang": 0.7, "code": 0.1}, "density": 0.3}
    one = recipe(refs, method, **numbers)
    want = state(merge(one, device="cpu"))
    monkeypatch.setattr(compiled_module, "CPU_CHUNK", 100)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert same(state(merge(one, device="cpu")), want)
    finally:
        torch.set_num_threads(threads)
    backwards = merge(one.model_copy(update={"experts": one.experts[::-1]}), device="cpu")
    torch.testing.assert_close(state(backwards), want, rtol=1e-5, atol=1e-6)


def test_a_recipe_may_use_some_of_the_experts(merger, zoo):
    one = recipe([zoo[0], zoo[3]], "slerp", t=0.25)
    merger.apply(one)
    assert same(state(merger.model), state(merge(one, device="cpu")))


def test_tied_weights_stay_tied_and_are_written_once(merger, zoo):
    merger.apply(recipe(zoo, "linear", weight={"math": 0.0, "lang": 1.0, "code": 0.0}))
    model = merger.model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, open_checkpoint(zoo[2]).tensor("model.embed_tokens.weight"))


def test_groups_take_their_own_numbers(merger, zoo):
    names = [ref.name for ref in zoo[1:]]
    only = lambda chosen: {"weight": {name: float(name == chosen) for name in names}}  # noqa: E731
    merger.apply(
        Recipe(
            base=zoo[0],
            experts=tuple(zoo[1:]),
            method="linear",
            dtype="float32",
            groups=(
                Group(layers=(1, 3), modules="attention", parameters=only("math")),
                Group(layers="outside", parameters=only("lang")),
                Group(parameters=only("code")),
            ),
        )
    )
    math, lang, code = (open_checkpoint(ref) for ref in zoo[1:])
    for name, tensor in merger.model.named_parameters():
        if "embed" in name or name == "model.norm.weight":
            source = lang
        elif "self_attn" in name and "layers.0" not in name:
            source = math
        else:
            source = code
        assert torch.equal(tensor, source.tensor(name)), name


def test_parameters_that_are_not_named_take_options_then_defaults(merger, zoo):
    merger.apply(recipe(zoo, "task_arithmetic", weight=0.5, options={"lambda": 0.5}))
    by_option = state(merger.model)
    merger.apply(recipe(zoo, "task_arithmetic", weight=0.5, **{"lambda": 0.5}))
    assert same(by_option, state(merger.model))
    merger.apply(recipe(zoo, "task_arithmetic", weight=0.5))
    assert not same(by_option, state(merger.model))


def test_arithmetic_is_float32_and_rounded_once(zoo_bfloat16):
    merger = Merger(zoo_bfloat16[0], zoo_bfloat16[1:], "bfloat16", "cpu")
    merger.apply(recipe(zoo_bfloat16, "linear", "bfloat16", weight=0.4, options={"normalize": False}))
    for name, tensor in merger.model.named_parameters():
        parts = [open_checkpoint(ref).tensor(name).float() for ref in zoo_bfloat16[1:]]
        want = (parts[0] * 0.4 + parts[1] * 0.4 + parts[2] * 0.4).bfloat16()
        assert torch.equal(tensor, want)


def test_buffers_are_those_of_the_base(merger, zoo):
    before = {name: buffer.clone() for name, buffer in merger.model.named_buffers()}
    merger.apply(recipe(zoo, "linear"))
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in merger.model.named_buffers())


def test_overflow_is_a_candidate_error_that_names_the_parameter(zoo, copy_of):
    name = "model.layers.2.mlp.up_proj.weight"
    folder = copy_of(zoo[1])
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 4] = 7_000.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    large = ModelRef(model=str(folder), name="large")
    merger = Merger(zoo[0], [large], "float16", "cpu")
    merger.apply(recipe([zoo[0], large], "linear", "float16", weight=9.0, options={"normalize": False}))
    with pytest.raises(CandidateError, match=f"finite in float16, but {name} holds NaN or infinity") as raised:
        merger.apply(recipe([zoo[0], large], "linear", "float16", weight=9.5, options={"normalize": False}))
    assert "\n" not in str(raised.value)
    merger.apply(recipe([zoo[0], large], "linear", "float16"))


@pytest.fixture
def broken(zoo, copy_of):
    """An expert with two NaNs and an infinity in one parameter, and one in another."""
    folder = copy_of(zoo[1])
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4:7] = torch.tensor([float("nan"), float("nan"), float("inf")])
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ModelRef(model=str(folder), name="bad")


@pytest.mark.parametrize("how", [Merger, StreamedMerger])
def test_weights_that_are_not_finite_are_refused_by_name_and_count(how, zoo, broken):
    message = r"expert 'bad' holds 3 NaN or infinite values in model\.layers\.2\.mlp\.up_proj\.weight and in 1 more"
    with pytest.raises(InputError, match=message):
        how(zoo[0], [zoo[2], broken], "float32", "cpu")
    with pytest.raises(InputError, match=r"the base 'bad' holds 3 NaN"):
        how(broken, [zoo[2]], "float32", "cpu")


def test_weights_that_are_not_finite_count_where_they_are_allowed_and_used(zoo, broken):
    merger = Merger(zoo[0], [broken, zoo[2]], "float32", "cpu", allow_nonfinite=True)
    refs = [zoo[0], broken, zoo[2]]
    for weight in (1.0, 0.0):
        one = recipe(refs, "task_arithmetic", weight={"bad": weight, "lang": 0.5})
        merger.apply(one.model_copy(update={"allow_nonfinite": True}))
        finite = merger.model.model.layers[2].mlp.up_proj.weight.isfinite()
        assert int((~finite).sum()) == (3 if weight else 0)


def test_recipes_of_other_models_are_refused(merger, zoo):
    good = recipe(zoo, "linear")
    other = zoo[1].model_copy(update={"model": zoo[2].model})
    wrong = [
        ({"base": zoo[1], "experts": (zoo[2],)}, "must have the merger's base"),
        ({"experts": (ModelRef(model=zoo[1].model, name="mth"),)}, "an expert of a recipe must be one of .*'math'"),
        ({"experts": (other,)}, "expert 'math' must be the merger's"),
        ({"dtype": "bfloat16"}, "must have the merger's dtype float32, but has bfloat16"),
        ({"tokenizer": "union"}, "must have the merger's tokenizer base, but has union"),
        ({"allow_nonfinite": True}, "must have the merger's allow_nonfinite False, but has True"),
        ({"method": "tie"}, "merge method must be one of .*did you mean 'ties'"),
        ({"method": "slerp"}, "slerp must have exactly 1 expert, but got 3: math, lang, code"),
        ({"groups": (Group(layers=(0, 1)),)}, "fits none"),
    ]
    for change, message in wrong:
        for act in (merger.check, merger.apply):
            with pytest.raises(InputError, match=message):
                act(good.model_copy(update=change))


@pytest.mark.parametrize("which", ["zoo", "zoo_bfloat16"])
def test_the_files_are_never_written(which, request):
    refs = request.getfixturevalue(which)
    before = [open_checkpoint(ref).digest() for ref in refs]
    dtype = "float32" if which == "zoo" else "bfloat16"
    merger = Merger(refs[0], refs[1:], dtype, "cpu")
    merger.apply(recipe(refs, "ties", dtype, weight=0.5, density=0.5))
    assert [open_checkpoint(ref).digest() for ref in refs] == before


def test_check_writes_nothing(merger, zoo):
    merger.apply(recipe(zoo, "linear"))
    before = state(merger.model)
    merger.check(recipe(zoo, "ties", density=0.1))
    assert same(before, state(merger.model))


@pytest.mark.parametrize(
    ("dtype", "device", "message"),
    [
        ("float8", "cpu", "dtype must be one of"),
        ("float32", "gpu", "device must be auto, cpu, cuda, cuda:i or balanced"),
        pytest.param(
            "float32",
            "balanced",
            "that this machine has",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason=""),
        ),
        ("float32", "cuda:99", "that this machine has"),
    ],
)
def test_wrong_dtype_or_device(zoo, dtype, device, message):
    with pytest.raises(InputError, match=message):
        Merger(zoo[0], zoo[1:], dtype, device)


def test_load_model(zoo, copy_of):
    assert same(state(load_model(zoo[1], "float32", "cpu")), loaded(zoo[1]))
    folder = copy_of(zoo[1])
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"must hold model\.layers\.1\.mlp\.up_proj\.weight, but lacks it"):
        load_model(ModelRef(model=str(folder)), "float32", "cpu")


def test_experts_with_one_name_are_refused(zoo):
    with pytest.raises(InputError, match="unique names"):
        Merger(zoo[0], [zoo[1], zoo[1]], "float32", "cpu")


def test_candidates_compute_what_their_weights_say(merger, zoo):
    """The live model's logits are those of a fresh model with the same weights."""
    merger.apply(recipe(zoo, "linear"))
    fresh = build(llama(), 99)
    fresh.load_state_dict(merger.model.state_dict())
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert torch.equal(merger.model(tokens).logits, fresh(tokens).logits)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS.names())
def test_cuda_candidates_are_those_of_the_cpu(method, zoo_bfloat16):
    refs = zoo_bfloat16[: 1 + (METHODS.get(method).max_experts or 3)]
    known = {spec.name for spec in METHODS.get(method).parameters}
    numbers = {name: value for name, value in {"t": 0.3, "weight": 0.5}.items() if name in known}
    one = recipe(refs, method, "bfloat16", **numbers)
    here, there = merge(one, device="cpu").state_dict(), merge(one, device="cuda").state_dict()
    for name, tensor in here.items():
        assert there[name].device.type == "cuda"
        if method == "slerp":  # its angle comes from sums in another order: the last bit may differ
            torch.testing.assert_close(tensor, there[name].cpu())
        else:
            assert torch.equal(tensor, there[name].cpu()), name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS.names())
def test_the_gpu_is_not_waited_for_inside_a_merge(method, zoo_bfloat16):
    refs = zoo_bfloat16[: 1 + (METHODS.get(method).max_experts or 3)]
    merger = Merger(refs[0], refs[1:], "bfloat16", "cuda")
    one = recipe(refs, method, "bfloat16")
    merger.apply(one)  # statistics are taken here
    torch.cuda.set_sync_debug_mode("error")
    try:
        merger.apply(one)
    finally:
        torch.cuda.set_sync_debug_mode("default")
