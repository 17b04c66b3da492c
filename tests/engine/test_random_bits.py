from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.engine.random_bits import Key, random_bits, random_key

MASK = 2**32 - 1


def plain_word(key: Key, index: int) -> int:
    """triple32 in Python's integers."""
    high = ((index >> 32) * 0x9E3779B9 + key.high) & MASK
    h = (index ^ key.low) & MASK
    h = ((h ^ (h >> 17)) * 0xED5AD4BB) & MASK
    h = ((h ^ (h >> 11)) * 0xAC4C1B51 + high) & MASK
    h = ((h ^ (h >> 15)) * 0x31848BAB) & MASK
    return h ^ (h >> 14)


@given(low=st.integers(0, MASK), high=st.integers(0, MASK), index=st.integers(0, 2**40))
def test_words_are_those_of_plain_integers(low, high, index):
    assert random_bits(Key(low, high), torch.tensor([index])).item() == plain_word(Key(low, high), index)


def test_words_do_not_depend_on_chunks():
    key = random_key(3, "math", "w")
    start = 2**32 - 500
    whole = random_bits(key, torch.arange(start, start + 1000))
    parts = torch.cat([random_bits(key, torch.arange(start + i, start + i + 125)) for i in range(0, 1000, 125)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole[500:], random_bits(key, torch.arange(500)))


def test_known_words():
    """Words never change between versions: a recipe is the whole cause of its candidate."""
    assert random_key(0, "math", "model.norm.weight") == Key(1708642894, 2520308450)
    assert random_bits(Key(1, 2), torch.arange(3)).tolist() == [1731327072, 1661508466, 2955144115]


def test_every_field_of_a_key_matters():
    keys = {
        random_key(*fields)
        for fields in [(0, "a", "b"), (1, "a", "b"), (0, "ab", ""), (0, "", "ab"), (0, "a", "b", "other")]
    }
    assert len(keys) == 5


@pytest.mark.parametrize("seed", range(5))
def test_words_are_uniform_and_independent(seed):
    size = 1 << 16
    one = random_bits(random_key(seed, "a", "w"), torch.arange(size)).numpy()
    two = random_bits(random_key(seed, "b", "w"), torch.arange(size)).numpy()
    for words in (one, one[::2], one & 0xFFFF):
        counts = np.bincount((words * 64 // (words.max() + 1)).astype(int), minlength=64)
        chi2 = ((counts - len(words) / 64) ** 2 / (len(words) / 64)).sum()
        assert 20 < chi2 < 130  # 63 degrees of freedom: mean 63, deviation 11
    limit = 5 / np.sqrt(size)
    low_bits = (one & 1) * 2.0 - 1
    assert abs(np.corrcoef(one, two)[0, 1]) < limit
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < limit
    assert abs(low_bits.mean()) < limit
    joint = (one < 0.3 * 2**32) & (two < 0.3 * 2**32)
    assert abs(joint.mean() - 0.09) < 5 * np.sqrt(0.09 * 0.91 / size)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_words_are_the_same_on_cuda():
    index = torch.arange(2**32 - 1000, 2**32 + 1000)
    key = random_key(0, "a", "w")
    assert torch.equal(random_bits(key, index), random_bits(key, index.cuda()).cpu())
