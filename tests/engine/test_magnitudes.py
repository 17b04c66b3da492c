from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine.arena import SMALL as WIDE_FROM
from evomerge.engine.magnitudes import SMALL, MagnitudeTable, RankTable
from evomerge.engine.method import METHODS
from evomerge.engine.plan import Cut, Keep, Score
from evomerge.errors import InputError
from tests.engine.tiny import PARAMETER, defaults, engine_merge, statistics_of


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
    again = MagnitudeTable(lambda: iter(magnitudes.split(7_000)), size, counted=found.arrays)
    for k in sorted({1, 2, size // 3, size // 2, size - 1, size} & set(range(1, size + 1))):
        assert tuple(found.threshold(k)) == expected(magnitudes, k)
        assert again.threshold(k) == found.threshold(k)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.0001, 1.0))
def test_thresholds_are_exact_for_differences_of_bfloat16(seed, share):
    torch.manual_seed(seed)
    base = torch.randn(30_000).bfloat16()
    tuned = (base.float() + 0.01 * torch.randn(30_000)).bfloat16()
    magnitudes = (tuned.float() - base.float()).abs()
    k = max(1, int(share * 30_000))
    assert tuple(table(magnitudes).threshold(k)) == expected(magnitudes, k)


@pytest.mark.parametrize("size", [1, 100, 40_000])
@pytest.mark.parametrize("kind", ["normal", "few levels", "negative", "zeros"])
@pytest.mark.parametrize("many", [False, True])
def test_numbers_of_either_sign_are_ranked_exactly(kind, size, many):
    torch.manual_seed(0)
    numbers = {
        "normal": torch.randn(size),
        "few levels": torch.randint(-3, 3, (size,)).float(),
        "negative": -torch.rand(size),
        "zeros": torch.tensor([0.0, -0.0]).repeat(size)[:size],
    }[kind]
    found = RankTable(lambda: iter(numbers.split(7_000)), size, many=many)
    assert found.positive == int((numbers > 0).sum())
    again = RankTable(lambda: iter(numbers.split(7_000)), size, many=many, counted=found.arrays)
    assert (again.positive, again.finite) == (found.positive, found.finite)
    for k in sorted({1, size // 3 + 1, size // 2 + 1, size}):
        assert tuple(found.threshold(k)) == expected(numbers, k)
        assert again.threshold(k) == found.threshold(k)


def kept(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Which elements of a task vector survive in a merge with ties."""
    values = defaults(METHODS.get("ties"), 1, density=density)
    return engine_merge(METHODS.get("ties"), torch.zeros_like(delta), {"math": delta}, values) != 0


@pytest.mark.parametrize("density", [0.0, 0.1, 0.25, 0.999, 1.0])
@pytest.mark.parametrize("size", [50, 30_000, WIDE_FROM])
def test_without_ties_exactly_the_top_k_survive(size, density):
    delta = torch.randperm(size).float() + 1
    delta[::2] *= -1
    survivors = kept(delta, density)
    k = int(density * size)
    assert int(survivors.sum()) == k
    assert k == 0 or delta[survivors].abs().min() == size - k + 1


@pytest.mark.parametrize("size", [30_000, WIDE_FROM])
def test_ties_at_the_threshold_survive_in_proportion(size):
    torch.manual_seed(0)
    delta = torch.tensor([0.0, 1.0, -2.0, 3.0])[torch.randint(0, 4, (size,))]
    shares = torch.linspace(0.02, 0.74, 37)
    counts = [int(kept(delta, float(share)).sum()) / size for share in shares]
    assert np.abs(np.array(counts) - shares.numpy()).max() < (0.01 if size < WIDE_FROM else 0.02)
    if size < WIDE_FROM:
        assert np.diff(counts).min() > 0  # no plateau


def test_a_higher_density_keeps_what_a_lower_one_kept():
    delta = torch.tensor([1.0, -2.0, 3.0])[torch.randint(0, 3, (20_000,))]
    previous = torch.zeros(20_000, dtype=torch.bool)
    for density in (0.1, 0.2, 0.3, 0.5, 0.8, 1.0):
        survivors = kept(delta, density)
        assert not (previous & ~survivors).any()
        previous = survivors


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [100, 30_000])
def test_magnitudes_that_are_not_finite_are_seen(bad, size):
    magnitudes = torch.rand(size)
    magnitudes[17] = abs(bad)
    assert not table(magnitudes).finite
    delta = torch.randn(size)
    delta[17] = bad
    with pytest.raises(InputError, match="weights must be finite, but expert 'math' holds 1 NaN or infinite"):
        kept(delta, 0.5)


def test_overflowing_differences_are_an_error():
    huge = {"math": torch.full((10,), 3e38)}
    with pytest.raises(
        InputError, match=f"weights must be finite to be ranked, but {PARAMETER} of the base or of 'math'"
    ):
        statistics_of(-huge["math"], huge).largest(0, 5)


def test_grams_are_those_of_float64():
    torch.manual_seed(1)
    base, one, two = torch.randn(3, 50, 500)
    found = statistics_of(base, {"math": base + 1e-4 * one, "lang": base + 1e-4 * two})
    raw = torch.stack([base, base + 1e-4 * one, base + 1e-4 * two]).double()
    tasks = raw[1:] - raw[0]
    for got, want in [
        (found.gram(), torch.einsum("irc,jrc->ij", raw, raw)),
        (found.row_grams(), torch.einsum("irc,jrc->rij", raw, raw)),
        (found.task_gram(), torch.einsum("irc,jrc->ij", tasks, tasks)),
        (found.row_task_grams(), torch.einsum("irc,jrc->rij", tasks, tasks)),
    ]:
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-11, atol=0.0)


def test_statistics_go_by_the_recipe_s_experts():
    base, one, two = torch.randn(3, 40)
    everyone = statistics_of(base, {"math": one, "lang": two})
    swapped = everyone._statistics.of(PARAMETER, [1, 0], 0)
    alone = everyone._statistics.of(PARAMETER, [1], 0)
    assert swapped.l1(0) == alone.l1(0) == everyone.l1(1)
    assert swapped.largest(0, 7) == alone.largest(0, 7) == everyone.largest(1, 7)
    assert swapped.task_gram()[0, 0] == alone.task_gram()[0, 0] == everyone.task_gram()[1, 1]
    assert swapped.keys().experts == everyone.keys().experts[::-1]


NOWHERE = Cut(-1.0)
"""A cut that everything passes."""


def test_sums_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(2)
    base, expert = torch.randn(2, 400, 500)
    found = []
    for threads in (1, 2, 4):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            one = statistics_of(base, {"math": expert})
            masks = (Keep(cut=2**30), Keep(density=0.3, epsilon=0.1))
            sums = [one.l1(0), *(one.l1(0, keep) for keep in masks), *one.selected_squares([0], NOWHERE)]
            found.append((one.gram().tolist(), sums, one.total(Score("product", (0,)))))
        finally:
            torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_sums_over_masks_are_remembered_for_the_same_masks_alone():
    torch.manual_seed(3)
    base, expert = torch.randn(2, 20, 30)
    first = statistics_of(base, {"math": expert})
    masks = (Keep(cut=2**30), Keep(cut=2**31), Keep(density=0.3, epsilon=0.1), Keep(density=0.3, epsilon=0.2))
    found = [first.l1(0, keep) for keep in masks]
    assert len(set(found)) == len(masks)
    assert [first.l1(0, keep) for keep in masks] == found
    assert first._statistics.of(PARAMETER, [0], 1).l1(0, masks[0]) != found[0]
    assert len(first._statistics._recent) == len(masks) + 1
