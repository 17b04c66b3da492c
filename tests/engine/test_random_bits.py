from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.engine.random_bits import Key, Keys, element_hash, expert_word, random_key, row_seeds, row_word, signed
from evomerge.engine.statistics import words

MASK = 2**32 - 1


def plain_word(shared: Key, own: Key, index: int) -> int:
    """The word in Python's integers: triple32, xor, one multiplication; as an unsigned number of the same order."""
    high = ((index >> 32) * 0x9E3779B9 + shared.high) & MASK
    h = (index ^ shared.low) & MASK
    h = ((h ^ (h >> 17)) * 0xED5AD4BB) & MASK
    h = ((h ^ (h >> 11)) * 0xAC4C1B51 + high) & MASK
    h = ((h ^ (h >> 15)) * 0x31848BAB) & MASK
    h ^= h >> 14
    return (((h ^ own.low) * (own.high | 1)) & MASK) ^ 2**31


def words_of(shared: Key, own: Key, start: int, count: int) -> torch.Tensor:
    return words(Keys(shared, (own,)), start, torch.empty(count))


word = st.integers(0, MASK)
keys = st.builds(Key, word, word)


@given(shared=keys, own=keys, start=st.integers(0, 2**40), count=st.integers(1, 40))
def test_words_are_those_of_plain_integers(shared, own, start, count):
    want = [plain_word(shared, own, start + i) for i in range(count)]
    assert words_of(shared, own, start, count).tolist() == want


@pytest.mark.parametrize("width", [16, 1024])
def test_words_do_not_depend_on_how_elements_lie_in_rows(width):
    shared, own = random_key(3, "", "w"), random_key(3, "math", "w")
    start = 2**32 - 4 * width
    rows = start + torch.arange(8) * width
    seed, later = row_seeds(shared, rows)
    key, multiplier = signed(torch.tensor([own.low, own.high | 1]))
    found = expert_word(element_hash(seed[:, None], later[:, None], width), key, multiplier)
    assert torch.equal(found.view(-1).long() + 2**31, words_of(shared, own, start, 8 * width))


def test_known_words():
    """Words never change between versions: a recipe is the whole cause of its candidate."""
    assert random_key(0, "math", "model.norm.weight") == Key(4042678745, 955868496)
    assert words_of(Key(1, 2), Key(3, 4), 0, 3).tolist() == [2214184431, 1865091381, 4038302320]
    assert row_word(torch.tensor(7), torch.arange(3)).tolist() == [7, 2654435776, 1013904249]


def test_every_field_of_a_key_matters():
    keys = {random_key(*fields) for fields in [(0, "a", "b"), (1, "a", "b"), (0, "ab", ""), (0, "", "ab")]}
    assert len(keys) == 4


@pytest.mark.parametrize("seed", range(30))
def test_words_are_uniform_and_independent(seed):
    size = 1 << 16
    shared = random_key(seed, "", "w")
    one = words_of(shared, random_key(seed, "a", "w"), 0, size).numpy()
    two = words_of(shared, random_key(seed, "b", "w"), 0, size).numpy()
    for found in (one, one[::2], one & 0xFFFF):
        counts = np.bincount((found * 64 // (found.max() + 1)).astype(int), minlength=64)
        chi2 = ((counts - len(found) / 64) ** 2 / (len(found) / 64)).sum()
        assert 20 < chi2 < 130  # 63 degrees of freedom: mean 63, deviation 11
    limit = 5 / np.sqrt(size)
    assert abs(np.corrcoef(one, two)[0, 1]) < limit
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < limit
    for share in (0.1, 0.5, 0.9):
        joint = (one < share * 2**32) & (two < share * 2**32)
        assert abs(joint.mean() - share**2) < 5 * np.sqrt(share**2 * (1 - share**2) / size)


@given(key=word, start=st.integers(0, 2**20), count=st.integers(20, 2000), bound=word)
def test_row_words_fill_the_range_evenly(key, start, count, bound):
    share = (row_word(torch.tensor(key), torch.arange(start, start + count)) < bound).double().mean()
    assert abs(float(share) - bound / 2**32) < 4 * np.log2(count) / count


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_words_are_the_same_on_cuda():
    pair = Keys(random_key(0, "", "w"), (random_key(0, "a", "w"),))
    here, there = torch.empty(2000), torch.empty(2000, device="cuda")
    assert torch.equal(words(pair, 2**32 - 1000, here), words(pair, 2**32 - 1000, there).cpu())
