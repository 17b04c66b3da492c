"""Random words that depend on their position alone: one 32-bit word for each (key, expert, element index).

No stream is drawn from, so a word does not change with a device, a chunk size or another parameter's density. An
element's index is hashed once; each expert's word is that hash, xor-ed with one word of the expert's key and
multiplied by the other. (One multiplier for all experts would leave their masks correlated: by 5 % for some keys.)
All arithmetic is modulo 2^32, in int32, which every compiler vectorizes; words are compared as signed numbers.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import torch

WORD = 0xFFFFFFFF
HALF = 2**31


class Key(NamedTuple):
    """64 bits that stand for one (seed, expert, parameter), as two words."""

    low: int
    high: int


class Keys(NamedTuple):
    """The keys of one parameter's random words.

    Attributes:
        element: of the hash that all experts share.
        experts: of each expert's words.
    """

    element: Key
    experts: tuple[Key, ...]


@lru_cache(maxsize=2**16)
def random_key(seed: int, expert: str, parameter: str) -> Key:
    """BLAKE2b over the fields, each with its length in front; the expert "" stands for all of them.

    Args:
        seed: of the recipe.
        expert: the expert's name.
        parameter: the parameter's name.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"evomerge bits")
    for part in (str(seed), expert, parameter):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    number = int.from_bytes(digest.digest(), "little")
    return Key(number & WORD, number >> 32)


def signed(word: torch.Tensor) -> torch.Tensor:
    """int64 in [0, 2^32) to the int32 of the same bits."""
    return ((word ^ HALF) - HALF).int()


def row_seeds(key: Key | tuple[torch.Tensor, torch.Tensor], start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `element_hash` needs for rows of elements.

    Args:
        key: one key, or a tensor of each of its words, int64 [rows].
        start: int64 [rows]; the index of each row's first element, a multiple of the row's length (a power of 2).

    Returns:
        int32 [rows] twice: what the position inside the row is xor-ed with, and what is added later.
    """
    low, high = key
    return signed((start & WORD) ^ low), signed(((start >> 32) * 0x9E3779B9 + high) & WORD)


def element_hash(seed: torch.Tensor, later: torch.Tensor, width: int) -> torch.Tensor:
    """A hash of each element's index: triple32 (C. Wellons, hash-prospector), with the key's words mixed in.

    Args:
        seed, later: int32 [rows, 1], from `row_seeds`.
        width: elements a row.

    Returns:
        int32 [rows, width].
    """
    h = torch.arange(width, dtype=torch.int32, device=seed.device) ^ seed
    h = (h ^ ((h >> 17) & 0x7FFF)) * (0xED5AD4BB - 2**32)
    h = (h ^ ((h >> 11) & 0x1FFFFF)) * (0xAC4C1B51 - 2**32) + later
    h = (h ^ ((h >> 15) & 0x1FFFF)) * 0x31848BAB
    return h ^ ((h >> 14) & 0x3FFFF)


def expert_word(element: torch.Tensor, key: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
    """The expert's random word of each element, int32, uniform over [-2^31, 2^31).

    Args:
        element: int32 [rows, width], from `element_hash`.
        key: int32 [rows, 1]; the low word of the expert's key.
        multiplier: int32 [rows, 1]; the high word, made odd.
    """
    return (element ^ key) * multiplier


def row_word(key: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """A word for each row, int64 in [0, 2^32): a Weyl sequence, which fills the range evenly over any run of rows.

    Args:
        key: int64 [rows]; the high word of the expert's key.
        row: int64 [rows]; the row's number in its parameter.
    """
    return (row * 0x9E3779B9 + key) & WORD
