"""Texts that occur twice, exactly or nearly, among up to some hundred thousand.

Exactly: equal after NFKC, case folding and with runs of spaces as one. Nearly: the sets of their runs of five words
have a Jaccard similarity of at least .8 (Lee et al. 2022, arXiv:2107.06499, section 4.2, who use MinHash as here). Runs
that many documents of a task share are the task's wording and do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain, count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WORDS = 5
"""Words in a run."""

LEAST = 5
"""Runs of its own that a text must have to be compared; shorter ones are equal or they are not."""

ALIKE = 0.8
"""Jaccard similarity from which on texts are nearly the same."""

COMMON = 0.1
"""Share of a task's documents beyond which a run is the task's wording, if so many and at least `FEW` have it."""

FEW = 10

BANDS, ROWS = 16, 4
"""Of the signatures: a pair at .8 meets in a band with a probability of 1 - (1 - .8^4)^16 = .9998, at .5 of .64."""

NEIGHBOURS = 8
"""Texts of one band that each is compared with: where more nearly equal ones meet, some pairs are not seen."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Pair(NamedTuple):
    """Two texts by their places, the first below the second, and their Jaccard similarity; 1: equal."""

    one: int
    other: int
    similarity: float


def normal(text: str) -> str:
    """The text as it is compared."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def alike(texts: Sequence[str], tasks: Sequence[int], apart: Sequence[int]) -> list[Pair]:
    """Pairs of texts that are equal or nearly so.

    Of equal texts each is paired with the first one of another group; of nearly equal ones the first of each kind.

    Args:
        texts: to compare.
        tasks: a number for each text's task, whose wording does not count.
        apart: a number for each text's group; pairs within one group are left out.
    """
    plain = [normal(text) for text in texts]
    first: dict[str, int] = {}
    kinds = [first.setdefault(text, place) for place, text in enumerate(plain)]
    members: dict[int, list[int]] = {}
    for place, kind in enumerate(kinds):
        members.setdefault(kind, []).append(place)
    exact = [pair for group in members.values() if len(group) > 1 for pair in _across(group, apart)]
    unique = np.array(list(members), dtype=np.int64)
    near = _near([plain[place] for place in unique], np.array([tasks[place] for place in unique], dtype=np.int64))
    found = []
    for one, other, similarity in near:
        left, right = members[int(unique[one])], members[int(unique[other])]
        apart_pair = next(((a, b) for a in left for b in right if apart[a] != apart[b]), None)
        if apart_pair is not None:
            found.append(Pair(min(apart_pair), max(apart_pair), similarity))
    return exact + found


def _across(group: Sequence[int], apart: Sequence[int]) -> list[Pair]:
    """Each member of another group than the first, with the first; there may be none."""
    head = group[0]
    return [Pair(head, place, 1.0) for place in group[1:] if apart[place] != apart[head]]


def _near(texts: Sequence[str], tasks: Numbers) -> list[tuple[int, int, float]]:
    hashes, owners = _own_runs(*_runs(texts), tasks)
    counts = np.bincount(owners, minlength=len(texts))
    keep = counts[owners] >= LEAST
    hashes, owners = hashes[keep], owners[keep]
    if not len(hashes):
        return []
    places, starts = np.unique(owners, return_index=True)
    signatures = _signatures(hashes, starts)
    ends = np.append(starts[1:], len(hashes))
    found = []
    for one, other in _candidates(signatures):
        left, right = hashes[starts[one] : ends[one]], hashes[starts[other] : ends[other]]
        together = len(np.intersect1d(left, right, assume_unique=True))
        similarity = together / (len(left) + len(right) - together)
        if similarity >= ALIKE:
            found.append((int(places[one]), int(places[other]), float(similarity)))
    return found


def _runs(texts: Sequence[str]) -> tuple[Hashes, Numbers]:
    """A hash of each run of words, and the text that it is in."""
    vocabulary: dict[str, int] = {}
    words = [_WORD.findall(text) for text in texts]
    # A word's number is the place where it first stands.
    ids = np.fromiter(map(vocabulary.setdefault, chain.from_iterable(words), count()), dtype=np.uint64)
    owners = np.repeat(np.arange(len(texts)), [len(own) for own in words])
    if len(ids) < WORDS:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    size = len(ids) - WORDS + 1
    mixed, total = _mixed(ids + np.uint64(1)), np.zeros(size, dtype=np.uint64)
    for offset in range(WORDS):
        total = _mixed(total + mixed[offset : offset + size])
    inside = owners[:size] == owners[WORDS - 1 :]
    return total[inside], owners[:size][inside]


def _own_runs(hashes: Hashes, owners: Numbers, tasks: Numbers) -> tuple[Hashes, Numbers]:
    """Each run once for each text, without those that are their task's wording; in the order of texts."""
    _, first = np.unique(_mixed(hashes + _mixed(owners.astype(np.uint64))), return_index=True)
    first.sort()
    hashes, owners = hashes[first], owners[first]
    of_task = hashes + _mixed(tasks[owners].astype(np.uint64))
    _, kind, times = np.unique(of_task, return_inverse=True, return_counts=True)
    sizes = np.bincount(tasks)[tasks[owners]]
    own = times[kind] < np.maximum(COMMON * sizes, FEW)
    return hashes[own], owners[own]


def _signatures(hashes: Hashes, starts: Numbers) -> Hashes:
    """MinHash signatures, [texts, BANDS * ROWS]."""
    columns = []
    for number in range(BANDS * ROWS):
        key = _mixed(np.array([2 * number + 1, 2 * number + 2], dtype=np.uint64))
        columns.append(np.minimum.reduceat((hashes ^ key[0]) * (key[1] | np.uint64(1)) >> np.uint64(16), starts))
    return np.stack(columns, axis=1)


def _candidates(signatures: Hashes) -> list[tuple[int, int]]:
    """Pairs that meet in a band and whose signatures agree in about as much as they have to."""
    pairs: set[tuple[int, int]] = set()
    for band in range(BANDS):
        key = np.zeros(len(signatures), dtype=np.uint64)
        for row in range(ROWS):
            key = _mixed(key + signatures[:, band * ROWS + row])
        order = np.argsort(key, kind="stable")
        for step in range(1, NEIGHBOURS + 1):
            same = key[order[:-step]] == key[order[step:]]
            one, other = order[:-step][same], order[step:][same]
            agree = (signatures[one] == signatures[other]).mean(axis=1) >= ALIKE - 0.2
            left, right = np.minimum(one, other)[agree], np.maximum(one, other)[agree]
            pairs.update(zip(left.tolist(), right.tolist(), strict=True))
    return sorted(pairs)


def _mixed(values: Hashes) -> Hashes:
    """Hashes of numbers: the finalizer of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
