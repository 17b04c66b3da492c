"""What every merge method must do. A new method joins by existing; it needs a reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine.method import METHODS, MergeMethod
from evomerge.engine.reference import REFERENCES, reference_merge
from evomerge.errors import InputError
from tests.engine.tiny import PARAMETER, defaults, engine_merge, every_method

NAMES = ("math", "lang", "code")
methods = pytest.mark.parametrize("method", every_method(), ids=METHODS.names())


def tensors(shape, dtype=torch.float32, seed=0, experts=3, spread=0.1):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    moved = [base + spread * torch.randn(shape, generator=generator) for _ in range(experts)]
    return base.to(dtype), {name: tensor.to(dtype) for name, tensor in zip(NAMES, moved, strict=False)}


def experts_of(method: MergeMethod) -> int:
    return min(3, method.max_experts or 3)


@st.composite
def values_of(draw: st.DrawFn, method: MergeMethod, experts: int):
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
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_engine_equals_reference(method, data):
    experts = experts_of(method)
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16, torch.float16)))
    shape = data.draw(st.sampled_from(((1,), (7,), (16, 24), (130, 256))))
    base, models = tensors(shape, dtype, seed=data.draw(st.integers(0, 99)), experts=experts)
    values = data.draw(values_of(method, experts))
    got = engine_merge(method, base, models, values, seed=7).double()
    right = torch.zeros(shape, dtype=torch.bool)
    for nearby in as_good_as(values):
        want = reference_merge(method.name, base, models, nearby, parameter=PARAMETER, seed=7)
        right |= torch.isclose(got, want, rtol=2e-6, atol=4e-6 * max(1.0, float(want.abs().max())))
        if right.all():
            break
    assert right.all()


def as_good_as(values):
    """The values, and values with one weight a rounding error away: they decide elections that are exact draws."""
    yield values
    for i in range(len(values.get("weight", ()))):
        for error in (-1e-7, 1e-7):
            weight = [w * (1 + error * (i == j)) for j, w in enumerate(values["weight"])]
            yield {**values, "weight": tuple(weight)}


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neutral_numbers_give_the_base_bit_for_bit(method, dtype):
    base, models = tensors((40, 30), dtype, experts=experts_of(method))
    base[0, 0] = -0.0
    values = defaults(method, len(models), density=0.5, **method.neutral)
    got = engine_merge(method, base, models, values).to(dtype)
    assert torch.equal(got.view(torch.uint8), base.view(torch.uint8))


@methods
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_order_of_experts_does_not_matter(method, data):
    if method.ordered:
        pytest.skip("the method is declared to be ordered")
    base, models = tensors((16, 24), seed=3)
    values = data.draw(values_of(method, 3))
    backwards = {name: value[::-1] if isinstance(value, tuple) else value for name, value in values.items()}
    one = engine_merge(method, base, models, values, seed=5)
    two = engine_merge(method, base, dict(reversed(models.items())), backwards, seed=5)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5 * max(1.0, float(one.abs().max())))


@methods
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_chunks_do_not_matter(method, data):
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16)))
    base, models = tensors((150, 130), dtype, seed=11, experts=experts_of(method))
    values = data.draw(values_of(method, len(models)))
    chunk = data.draw(st.sampled_from((1_000, 4_097, 10_001)))
    whole = engine_merge(method, base, models, values, chunk=10**6)
    parts = engine_merge(method, base, models, values, chunk=chunk)
    if method.name == "slerp" or values.get("rescale") == "l1":  # their float64 sums may round differently
        torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(whole, parts)


@methods
@pytest.mark.parametrize("density", [0.0, 1e-12, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["zeros", "constant", "same as the base", "empty", "one element", "zero base"])
def test_result_is_finite_in_the_shape_of_the_base(method, kind, density):
    shape = {"empty": (0, 4), "one element": (1,)}.get(kind, (5, 4))
    base, models = tensors(shape, experts=experts_of(method))
    if kind in ("zeros", "zero base"):
        base = torch.zeros(shape)
    if kind == "constant":
        base = torch.full(shape, 0.5)
    if kind in ("zeros", "same as the base"):
        models = {name: base.clone() for name in models}
    if kind == "constant":
        models = {name: torch.full(shape, 0.25 * i) for i, name in enumerate(models)}
    for weight in (1.0, 0.0, -1.0):
        for choice in ("inverse_density", "l1", "none"):
            values = defaults(method, len(models), density=density, weight=weight, rescale=choice)
            result = engine_merge(method, base, models, values)
            assert result.shape == base.shape
            assert result.isfinite().all()


@methods
def test_weights_that_cancel_are_finite(method):
    base, models = tensors((5, 4), experts=experts_of(method))
    weight = (1.0, -1.0, 0.0)[: len(models)]
    assert (
        engine_merge(method, base, models, defaults(method, len(models), weight=weight, normalize=True))
        .isfinite()
        .all()
    )


@methods
def test_seed_matters_exactly_when_the_method_is_random(method):
    base, models = tensors((64, 64), experts=experts_of(method))
    values = defaults(method, len(models), density=0.5)
    one, two = (engine_merge(method, base, models, values, seed=seed) for seed in (0, 1))
    assert torch.equal(one, two) != method.random


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
    assert method.paper.startswith(("arXiv:", "doi:"))
    assert method.doc
    for spec in method.parameters:
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
def test_cuda_gives_the_bits_of_the_cpu(method):
    base, models = tensors((300, 257), torch.bfloat16, experts=experts_of(method))
    values = defaults(method, len(models), density=0.4, weight=0.7)
    here = engine_merge(method, base, models, values, seed=2)
    there = engine_merge(method, base.cuda(), {name: tensor.cuda() for name, tensor in models.items()}, values, seed=2)
    assert there.device.type == "cuda"
    torch.testing.assert_close(here, there.cpu(), rtol=1e-6, atol=1e-6)
