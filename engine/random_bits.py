"""Random words that depend on their position alone: one 32-bit word for each (key, element index).

No stream is drawn from, so a word does not change with a device, a chunk size or another parameter's density.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

WORD = 0xFFFFFFFF


class Key(NamedTuple):
    """64 bits that stand for one (seed, expert, parameter), as two words."""

    low: int
    high: int


def random_key(seed: int, expert: str, parameter: str, purpose: str = "keep") -> Key:
    """The key of one expert's parameter: BLAKE2b over the fields, each with its length in front.

    Args:
        seed: of the recipe.
        expert: the expert's name.
        parameter: the parameter's name.
        purpose: tells apart words that one method uses for different ends.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"evomerge bits")
    for part in (str(seed), expert, parameter, purpose):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    number = int.from_bytes(digest.digest(), "little")
    return Key(number & WORD, number >> 32)


def random_bits(key: Key, index: torch.Tensor) -> torch.Tensor:
    """32 random bits for each element.

    Args:
        key: of the expert's parameter.
        index: int64, any shape; positions in [0, 2^62).

    Returns:
        int64 of the same shape with values in [0, 2^32), the same on every device.
    """
    # triple32, a bijection of 32 bits (C. Wellons, hash-prospector), with the key's words added before its
    # first and its third multiplication; the index's upper word shifts the second of them by an odd constant.
    high = (index >> 32).mul_(0x9E3779B9).add_(key.high)
    h = (index ^ key.low).bitwise_and_(WORD)
    h.bitwise_xor_(h >> 17).mul_(0xED5AD4BB).bitwise_and_(WORD)
    h.bitwise_xor_(h >> 11).mul_(0xAC4C1B51).add_(high).bitwise_and_(WORD)
    h.bitwise_xor_(h >> 15).mul_(0x31848BAB).bitwise_and_(WORD)
    return h.bitwise_xor_(h >> 14)
