from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine.kernels import surviving
from evomerge.engine.magnitudes import SMALL, MagnitudeTable
from evomerge.engine.random_bits import random_key
from evomerge.engine.sources import CPU_CHUNK
from evomerge.engine.statistics import Statistics
from evomerge.errors import InputError
from tests.engine.tiny import PARAMETER, MemorySources


def table(magnitudes: torch.Tensor, chunk: int = 7_000) -> MagnitudeTable:
    return MagnitudeTable(lambda: iter(magnitudes.split(chunk)), magnitudes.numel())


def expected(magnitudes: torch.Tensor, k: int) -> tuple[float, int, int]:
    value = float(np.sort(magnitudes.numpy())[-k])
    return value, int((magnitudes > value).sum()), int((magnitudes == value).sum())


KINDS = {
    "float32": lambda size: torch.randn(size).abs(),
    "bfloat16": lambda size: torch.randn(size).bfloat16().float().abs(),
    "few levels": lambda size: torch.randint(0, 5, (size,)).float() * 1e-3,
    "wide": lambda size: torch.exp(torch.randn(size) * 20).clamp(1e-42, 1e38),
    "zeros": torch.zeros,
    "one bin": lambda size: 1.0 + torch.rand(size) * 2**-8,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 100, SMALL, 40_000])
def test_thresholds_are_exact_for_every_k(kind, size):
    torch.manual_seed(0)
    magnitudes = KINDS[kind](size)
    found = table(magnitudes)
    for k in sorted({1, 2, size // 3, size // 2, size - 1, size} & set(range(1, size + 1))):
        assert tuple(found.threshold(k)) == expected(magnitudes, k)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.0001, 1.0))
def test_thresholds_are_exact_for_differences_of_bfloat16(seed, share):
    torch.manual_seed(seed)
    base = torch.randn(30_000).bfloat16()
    tuned = (base.float() + 0.01 * torch.randn(30_000)).bfloat16()
    magnitudes = (tuned.float() - base.float()).abs()
    k = max(1, int(share * 30_000))
    assert tuple(table(magnitudes).threshold(k)) == expected(magnitudes, k)


def one_expert(delta: torch.Tensor, chunk: int = 5_000):
    sources = MemorySources(torch.zeros_like(delta), {"math": delta}, chunk)
    return Statistics(sources).of(PARAMETER, [0], 0)


def kept(delta: torch.Tensor, density: float) -> torch.Tensor:
    rule = one_expert(delta).trim(0, density)
    return surviving(delta.clone(), rule, random_key(0, "math", PARAMETER), 0) != 0


@pytest.mark.parametrize("density", [0.0, 0.1, 0.25, 0.999, 1.0])
@pytest.mark.parametrize("size", [50, 30_000])
def test_without_ties_exactly_the_top_k_survive(size, density):
    delta = torch.randperm(size).float() + 1
    delta[::2] *= -1
    survivors = kept(delta, density)
    k = int(density * size)
    assert int(survivors.sum()) == k
    assert k == 0 or delta[survivors].abs().min() == size - k + 1


def test_ties_at_the_threshold_survive_in_proportion():
    torch.manual_seed(0)
    size = 30_000
    delta = torch.tensor([0.0, 1.0, -2.0, 3.0])[torch.randint(0, 4, (size,))]
    shares = torch.linspace(0.02, 0.74, 37)
    counts = [int(kept(delta, float(share)).sum()) / size for share in shares]
    assert np.abs(np.array(counts) - shares.numpy()).max() < 5 * np.sqrt(0.25 * 0.25 / size)
    assert np.diff(counts).min() > 0  # no plateau


def test_a_higher_density_keeps_what_a_lower_one_kept():
    delta = torch.tensor([1.0, -2.0, 3.0])[torch.randint(0, 3, (20_000,))]
    previous = torch.zeros(20_000, dtype=torch.bool)
    for density in (0.1, 0.2, 0.3, 0.5, 0.8, 1.0):
        survivors = kept(delta, density)
        assert not (previous & ~survivors).any()
        previous = survivors


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("size", [100, 30_000])
def test_magnitudes_that_are_not_finite_are_an_error(bad, size):
    delta = torch.randn(size)
    delta[17] = bad
    with pytest.raises(InputError, match=f"weights must be finite, but {PARAMETER} of base or expert 'math'"):
        one_expert(delta).trim(0, 0.5)


def test_gram_is_that_of_float64():
    torch.manual_seed(1)
    base, expert = torch.randn(2, 25_000)
    sources = MemorySources(base, {"math": expert}, 4_000)
    got = torch.tensor(Statistics(sources).of(PARAMETER, [0], 0).gram(), dtype=torch.float64)
    rows = torch.stack([base, expert]).double()
    torch.testing.assert_close(got, rows @ rows.T, rtol=1e-12, atol=1e-9)


def test_sums_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(2)
    base, expert = torch.randn(2, 200_000)
    found = []
    for threads in (1, 2, 4):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            one = Statistics(MemorySources(base, {"math": expert}, CPU_CHUNK)).of(PARAMETER, [0], 0)
            found.append((one.gram(), one.l1(0), one.l1(0, 2**30)))
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
