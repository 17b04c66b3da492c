"""What every merge method must do. A new method joins by existing; a built-in one needs a reference."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.engine import Merger, compiled
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.compiled import Launcher
from evomerge.engine.method import METHODS, MergeMethod
from evomerge.engine.recipe import Group, Recipe
from evomerge.engine.reference import REFERENCES, reference_merge
from evomerge.engine.tensors import merge_tensors
from evomerge.errors import InputError
from tests.engine.tiny import PARAMETER, defaults, engine_merge, every_method

NAMES = ("math", "lang", "code")
SHAPES = ((), (1,), (7,), (5, 1), (16, 24), (3, 4, 5), (130, 256), (260, 256))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EASY = {"weight": 0.7, "density": 0.4, "select_topk": 0.4, "t": 0.05, "scale": 0.7, "epsilon": 0.1}
"""Numbers with which every method does something to tensors a tenth apart."""

methods = pytest.mark.parametrize("method", every_method(), ids=METHODS.names())
small = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def tensors(shape, dtype=torch.float32, seed=0, experts=3, spread=0.1):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    moved = [base + spread * torch.randn(shape, generator=generator) for _ in range(experts)]
    names = NAMES if experts <= 3 else [f"expert {i}" for i in range(experts)]
    return base.to(dtype), {name: tensor.to(dtype) for name, tensor in zip(names, moved, strict=False)}


def experts_of(method: MergeMethod, wanted: int = 3) -> int:
    return max(method.min_experts, min(wanted, method.max_experts or wanted))


@st.composite
def values_of(draw: st.DrawFn, method: MergeMethod, experts: int):
    """Values inside the search bounds, or in [-2, 2] where there are none."""

    def one(spec):
        if spec.kind == "switch":
            return st.booleans()
        if spec.kind == "choice":
            return st.sampled_from(spec.choices)
        low, high = spec.search or (max(spec.low, -2.0), min(spec.high, 2.0))
        number = st.integers(0, 1000).map(lambda k: low + (high - low) * k / 1000)
        return st.tuples(*[number] * experts) if spec.per_expert else number

    return {spec.name: draw(one(spec)) for spec in method.parameters}


@methods
@settings(max_examples=16, deadline=None)
@given(data=st.data())
def test_engine_equals_reference(method, data):
    experts = experts_of(method, data.draw(st.integers(1, 4)))
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(st.sampled_from(SHAPES))
    base, models = tensors(shape, dtype, seed=data.draw(st.integers(0, 99)), experts=experts)
    values = data.draw(values_of(method, experts))
    got = engine_merge(method, base, models, values, seed=7).double()
    right = torch.zeros(shape, dtype=torch.bool)
    rtol = 4e-6 * (cancellation(base, models, values) if method.name == "karcher" else 1.0)
    for nearby in as_good_as(values, base.numel()):
        want = reference_merge(method.name, base, models, nearby, parameter=PARAMETER, seed=7)
        right |= torch.isclose(
            got, want, rtol=rtol, atol=rtol * max(1.0, float(want.abs().max()) if want.numel() else 0)
        )
        if right.all():
            break
    assert right.all(), f"{(~right).sum()} of {right.numel()} elements differ"


def cancellation(base, models, values):
    """How much the mean of directions that pull against each other magnifies rounding: sum of pulls over their mean."""
    origin = base.double() if values["task_vectors"] else torch.zeros_like(base, dtype=torch.float64)
    vectors = [(model.double() - origin).flatten() for model in models.values()]
    pulls = [(w, v / v.norm()) for w, v in zip(values["weight"], vectors, strict=True) if v.norm() > 0]
    total = sum(w for w, _ in pulls)
    left = float(sum(w * unit for w, unit in pulls).norm()) if pulls else 0.0
    return total / left if left > 0 else 1.0


def as_good_as(values, numel):
    """The values, and some a rounding error away: they decide votes that are exact draws, and ranks that nearly tie."""
    yield values
    for i in range(len(values.get("weight", ()))):
        for error in (-1e-7, 1e-7):
            weight = [w * (1 + error * (i == j)) for j, w in enumerate(values["weight"])]
            yield {**values, "weight": tuple(weight)}
    for error in (-1e-6, 1e-6):
        if "threshold" in values:
            yield {**values, "threshold": values["threshold"] * (1 + error)}
    for change in (-1.5, 1.5):
        if isinstance(values.get("density"), tuple) and numel:
            yield {**values, "density": tuple(min(max(d + change / numel, 0), 1) for d in values["density"])}


@methods
@pytest.mark.parametrize("experts", [1, 2, 20])
def test_any_number_of_experts_that_the_method_takes(method, experts):
    if experts_of(method, experts) != experts:
        with pytest.raises(InputError, match=rf"{method.name} must have .* experts?, but got {experts}: "):
            method.bind({}, {}, [f"expert {i}" for i in range(experts)])
        return
    base, models = tensors((9, 40), experts=experts)
    values = defaults(method, experts, **EASY)
    got = engine_merge(method, base, models, values, seed=7).double()
    want = reference_merge(method.name, base, models, values, parameter=PARAMETER, seed=7)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not torch.equal(got.float(), base)


@methods
@pytest.mark.parametrize("dtype", DTYPES)
def test_neutral_numbers_give_the_base_bit_for_bit(method, dtype):
    base, models = tensors((40, 30), dtype, experts=experts_of(method))
    base[0, 0] = -0.0
    if method.neutral:
        values = defaults(method, len(models), **{**EASY, **method.neutral})
        got = engine_merge(method, base, models, values).to(dtype)
        assert torch.equal(got.view(torch.uint8), base.view(torch.uint8))
    else:
        same = {name: base.clone() for name in models}
        got = engine_merge(method, base, same, defaults(method, len(models)))
        torch.testing.assert_close(got, base.float(), rtol=1e-6, atol=1e-6)


@methods
@small
@given(data=st.data())
def test_order_of_experts_does_not_matter(method, data):
    if method.ordered:
        pytest.skip("the method is declared to be ordered")
    experts = experts_of(method)
    base, models = tensors((16, 24), seed=3, experts=experts)
    values = data.draw(values_of(method, experts))
    backwards = {name: value[::-1] if isinstance(value, tuple) else value for name, value in values.items()}
    one = engine_merge(method, base, models, values, seed=5)
    two = engine_merge(method, base, dict(reversed(models.items())), backwards, seed=5)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * max(1.0, float(one.abs().max())))


@methods
@small
@given(data=st.data())
def test_chunks_do_not_matter(method, data):
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16)))
    shape = data.draw(st.sampled_from(((150, 130), (260, 256))))
    base, models = tensors(shape, dtype, seed=11, experts=experts_of(method))
    values = data.draw(values_of(method, len(models)))
    chunk = data.draw(st.sampled_from((1_000, 4_097, 10_001)))
    whole = engine_merge(method, base, models, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "CPU_CHUNK", chunk)
        parts = engine_merge(method, base, models, values)
    assert torch.equal(whole, parts)


@methods
@pytest.mark.filterwarnings("ignore:bf16 and fp16 are mixed")
@pytest.mark.parametrize("rows", ["narrow", pytest.param("wide", marks=pytest.mark.exhaustive)])
def test_compiled_kernels_give_the_bits_of_eager_ones(method, rows, launcher):
    dtype = torch.bfloat16 if rows == "wide" else torch.float32
    if rows == "narrow" and method.name not in ("dare_ties", "sce", "slerp"):
        pytest.skip("another width changes nothing but the loop: tried for three")
    base, models = tensors((260, 257) if rows == "wide" else (40, 30), dtype, experts=experts_of(method))
    values = defaults(method, len(models), **EASY)
    eager = engine_merge(method, base, models, values, seed=2, dtype=dtype)
    fused = engine_merge(method, base, models, values, seed=2, dtype=dtype, launcher=launcher)
    assert torch.equal(eager, fused)


@pytest.fixture(scope="module")
def launcher():
    """Compiles at first use; forms that several methods share are compiled once."""
    return Launcher(0)


@methods
def test_whole_models_are_merged_parameter_by_parameter(method, zoo_bfloat16):
    refs = zoo_bfloat16[: 1 + experts_of(method)]
    names = [ref.name for ref in refs[1:]]
    halves = ((0, 2), 0.4), ("all", 0.7)  # parameters that run together have different numbers
    groups = [Group(layers=layers, parameters=numbers_of(method, density=density)) for layers, density in halves]
    merger = Merger(refs[0], refs[1:], "bfloat16", "cpu", launcher=Launcher(None))
    whole = Recipe(base=refs[0], experts=tuple(refs[1:]), method=method.name, groups=tuple(groups), seed=5)
    merger.apply(whole)
    stored = [open_checkpoint(ref) for ref in refs]
    for name, live in merger.model.named_parameters():
        base, *experts = (checkpoint.tensor(name) for checkpoint in stored)
        first = any(f"layers.{layer}." in name for layer in (0, 1))
        want = merge_tensors(
            method.name,
            base,
            dict(zip(names, experts, strict=True)),
            groups[0 if first else 1].parameters,
            name=name,
            seed=5,
            dtype=torch.bfloat16,
            launcher=Launcher(None),
        )
        assert torch.equal(live, want), name


def numbers_of(method, **changes):
    """Numbers of the method's parameters, as a recipe's group has them."""
    numbers = {**EASY, **changes}
    return {s.name: numbers.get(s.name, s.default) for s in method.parameters if s.kind == "number"}


KINDS = ("zeros", "constant", "same as the base", "opposite", "parallel", "empty", "no elements", "scalar", "zero base")


@methods
@pytest.mark.parametrize("density", [1e-12, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_result_is_finite_in_the_shape_of_the_base(method, kind, density):
    shape = {"empty": (0, 4), "no elements": (4, 0), "scalar": ()}.get(kind, (5, 4))
    base, models = tensors(shape, experts=experts_of(method))
    delta = torch.full(shape, 0.125)
    if kind in ("zeros", "zero base"):
        base = torch.zeros(shape)
    if kind == "constant":
        base = torch.full(shape, 0.5)
        models = {name: torch.full(shape, 0.25 * i) for i, name in enumerate(models)}
    if kind in ("zeros", "same as the base"):
        models = {name: base.clone() for name in models}
    if kind == "opposite":
        models = {name: base + delta * (-1) ** i for i, name in enumerate(models)}
    if kind == "parallel":
        models = {name: base + delta * (i + 1) for i, name in enumerate(models)}
    bound = 100 * max([1.0, *(float(t.abs().max()) for t in (base, *models.values()) if t.numel())])
    for changes in changes_of(method, len(models), density):
        result = engine_merge(method, base, models, defaults(method, len(models), **changes))
        assert result.shape == base.shape
        assert result.isfinite().all()
        assert density == 1e-12 or not result.numel() or result.abs().max() <= bound


def changes_of(method, experts, density):
    """Settings at edges: weights equal, absent, negative or cancelling; every switch and choice; ends of ranges."""
    cancelling = ((1.0, -1.0) + (0.0,) * experts)[:experts]
    negative = next((s.low < 0 for s in method.parameters if s.name == "weight"), True)
    for weight in (1.0, 0.0, *((-1.0, cancelling) if negative else ())):
        numbers = {"weight": weight, "density": density, "select_topk": density}
        yield {**numbers, "normalize": False}
        yield {**numbers, "normalize": True}
    for spec in method.parameters:
        for option in (False, True) if spec.kind == "switch" else spec.choices:
            yield {"density": density, "select_topk": density, spec.name: option}
        if spec.kind == "number":
            yield {"density": density, spec.name: max(spec.low, -2.0)}
            yield {"density": density, spec.name: min(spec.high, 2.0)}


@methods
def test_seed_matters_exactly_when_the_method_is_random(method):
    base, models = tensors((64, 64), experts=experts_of(method))
    values = defaults(method, len(models), **EASY)
    one, two = (engine_merge(method, base, models, values, seed=seed) for seed in (0, 1))
    assert torch.equal(one, two) != method.random


@methods
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_wanted_dtype_and_sources_are_left_alone(method, dtype):
    base, models = tensors((64, 64), torch.bfloat16, experts=experts_of(method))
    before = [tensor.clone() for tensor in (base, *models.values())]
    result = engine_merge(method, base, models, defaults(method, len(models), **EASY), dtype=dtype)
    exact = engine_merge(method, base, models, defaults(method, len(models), **EASY))
    assert torch.equal(result, exact.to(dtype))
    assert all(torch.equal(*pair) for pair in zip(before, (base, *models.values()), strict=True))


@methods
def test_numbers_out_of_range_are_refused(method):
    experts = NAMES[: experts_of(method)]
    for spec in method.parameters:
        if spec.kind == "number":
            for value in (spec.low - 1, spec.high + 1, math.nan, math.inf, True, "1"):
                with pytest.raises(InputError, match=rf"{spec.name}\S* of {method.name} must lie in \["):
                    method.bind({spec.name: value}, {}, experts)
        else:
            with pytest.raises(InputError, match=f"{spec.name} of {method.name} must be"):
                method.bind({}, {spec.name: "nonsense"}, experts)


@methods
def test_schema_is_complete(method):
    assert method.paper.startswith(("arXiv:", "doi:", "https://"))
    first, blank, *rest = method.doc.splitlines()
    assert first.endswith(".")
    assert blank == ""
    assert any(line.startswith("Pick it ") for line in rest)
    for paragraph in method.doc.split("\n\n"):
        assert paragraph.endswith((".", ":"))
        assert not re.search(r"\s[.,;]", paragraph)
    for spec in method.parameters:
        assert spec.name in ("normalize",) or any(line.startswith(f"{spec.name}: ") for line in rest)
        if spec.kind == "number":
            assert spec.low <= float(spec.default) <= spec.high
            if spec.search is not None:
                assert spec.low <= spec.search[0] < spec.search[1] <= spec.high
    assert all(method.parameter(name).kind == "number" for name in method.neutral)


def test_every_method_has_a_reference():
    assert set(METHODS.names()) == set(REFERENCES)


@methods
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_result_of_the_cpu(method):
    base, models = tensors((300, 257), torch.bfloat16, experts=experts_of(method))
    values = defaults(method, len(models), **EASY)
    here = engine_merge(method, base, models, values, seed=2)
    there = engine_merge(method, base.cuda(), {name: tensor.cuda() for name, tensor in models.items()}, values, seed=2)
    assert there.device.type == "cuda"
    torch.testing.assert_close(here, there.cpu(), rtol=1e-6, atol=1e-6)
