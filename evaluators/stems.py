"""Which rows have what in common: worked out once, for all candidates.

The rows of one document often begin alike (a question before each of its choices). Their common tokens are a *stem*,
which is run once; what is left of each row is its *rest*, which is run on a copy of the stem's keys and values. A row
that shares nothing is a stem without a rest. All tokens that are scored, of whichever part, are *targets*.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evomerge.evaluators.encode import Encoded
from evomerge.evaluators.prefix import common_prefix

LEAST = 0.2  # the least share of a document's tokens that a stem must save, as it costs another pass


class Target(NamedTuple):
    """A token to score: of which row, at which column (of a stem counted from its end), and its id."""

    owner: int
    column: int
    token: int


@dataclass
class Rest:
    """What a row reads behind its stem."""

    ids: array[int]
    targets: list[Target]


@dataclass
class Stem:
    """Tokens that are run once, behind the root or not, and what follows them.

    Attributes:
        ids: the tokens, without the root's.
        rooted: whether the root stands before them.
        targets: what is scored of the stem itself.
        rests: the ways in which rows go on.
    """

    ids: array[int]
    rooted: bool
    targets: list[Target] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)

    @property
    def keep(self) -> int:
        """How many of the last columns' logits are wanted."""
        return 1 + max((target.column for target in self.targets), default=0)

    @property
    def longest(self) -> int:
        """Tokens of the longest row, without the root's."""
        return len(self.ids) + max((len(rest.ids) for rest in self.rests), default=0)

    def owners(self) -> Iterator[int]:
        """The rows of all targets: the stem's own, then the rests'."""
        yield from (target.owner for target in self.targets)
        yield from (target.owner for rest in self.rests for target in rest.targets)


def stems_of(rows: Sequence[tuple[int, Encoded]], *, rooted: bool = False, least: float = LEAST) -> list[Stem]:
    """The stems of one document's rows.

    Args:
        rows: each with its number; without the root's tokens where `rooted`.
        rooted: whether the root stands before them.
        least: the least share of the tokens that a common stem must save; infinity: only rows that read the same
            share what they read.
    """
    reading: dict[bytes, list[tuple[int, Encoded]]] = {}
    for owner, row in rows:
        reading.setdefault(row.read.tobytes(), []).append((owner, row))
    firsts = [group[0][1].read for group in reading.values()]
    common = min(common_prefix(firsts), *(row.start for _, row in rows), *map(len, firsts))
    if len(firsts) > 1 and common > 0 and (len(firsts) - 1) * common >= least * sum(map(len, firsts)):
        stem = Stem(firsts[0][:common], rooted)
        for group in reading.values():
            _hang(stem, group)
        return [stem]
    stems = [Stem(first, rooted) for first in firsts]
    for stem, group in zip(stems, reading.values(), strict=True):
        _hang(stem, group)
    return stems


def in_order(stems: Iterable[Stem]) -> list[Stem]:
    """The stems with the longest first, so that memory runs out early or never; rooted ones apart."""
    return sorted(stems, key=lambda stem: (stem.rooted, -stem.longest, stem.ids.tolist()))


def _hang(stem: Stem, group: Iterable[tuple[int, Encoded]]) -> None:
    """Put the targets of rows that read the same on the stem, and on a rest where they read on."""
    length = len(stem.ids)
    rest = Rest(array("i"), [])
    for owner, row in group:
        rest.ids = row.ids[length:-1]
        for place in range(row.start, len(row.ids)):
            token, column = row.ids[place], place - 1 - length
            if column < 0:
                stem.targets.append(Target(owner, -1 - column, token))
            else:
                rest.targets.append(Target(owner, column, token))
    if rest.ids:
        stem.rests.append(rest)
