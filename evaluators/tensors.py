"""Batches of stems and rests as tensors, made once and kept on the device.

Layout of a batch (B stems, R rests, P tokens of the root, W columns of stems, T columns of rests):

    root P | padding, stem W                          logits of the last `keep` columns
    root P | padding, stem W | rest, padding T        logits of all T columns

Stems end in one column, so that one column of logits serves all; rests start behind it, so that no padding stands
between the tokens of a row, but behind a root. Positions count tokens alone.

Where all is scored and nothing shared, as of long texts, rows are padded on the right and run without a mask:

    stem, padding W                                   logits of all W columns
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from evomerge.evaluators.stems import Rest, Stem, Target

LOGITS = 2**27  # the most logits of one pass: rows x columns x vocabulary
TOKENS = 2**14  # the most tokens of one pass of several rows: more are no faster and take memory
PLAIN = 0.9  # the share of columns whose logits are wanted, from which on all may as well be made
RESTS_PER_STEM = 4  # a batch of rests has up to so many times the rows of a batch of stems ...
COLUMNS = 2**14  # ... as long as their copied keys and values are no more columns than this
PASS = {"cpu": 64}  # a pass costs as much as so many tokens: worth it to leave out more padding than that ...
PASS_ELSEWHERE = 4096  # ... and on any other kind of device


class Targets(NamedTuple):
    """Tokens to score as tensors, int64 [N]: row and column of the logits, and the token's id."""

    rows: torch.Tensor
    columns: torch.Tensor
    tokens: torch.Tensor


class Piece(NamedTuple):
    """Some columns of a batch of stems that go through the model at once.

    Attributes:
        begin: the first column, without the root's.
        end: behind the last column.
        keep: the number of last columns whose logits are wanted.
        targets: with columns counted within those.
    """

    begin: int
    end: int
    keep: int
    targets: Targets


class RestBatch(NamedTuple):
    """Rests of a batch's stems: ids [R, T], mask [R, P + W + T], the row of each one's stem [R], and targets."""

    ids: torch.Tensor
    mask: torch.Tensor
    stems: torch.Tensor
    targets: Targets


@dataclass(frozen=True)
class StemBatch:
    """A batch of stems with their rests, on the device.

    Attributes:
        ids: [B, W], padded on the left.
        mask: [B, P + W].
        pieces: what is run of it, one after the other; one unless its logits exceed the budget.
        rests: run behind it.
        order: int64 [N], from the order of the stems to that in which targets are scored.
        counts: how many targets each stem has.
        plain: padded on the right instead, and to be run without the mask; attention without one is faster.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    pieces: tuple[Piece, ...]
    rests: tuple[RestBatch, ...]
    order: torch.Tensor
    counts: list[int]
    plain: bool


def batched(stems: Sequence[Stem], size: int, vocabulary: int) -> list[range]:
    """Runs of at most `size` stems that keep to the budgets of logits and tokens; rooted and other stems apart.

    Args:
        stems: in the order of `in_order`.
        size: the most rows.
        vocabulary: logits of a column.
    """
    runs: list[range] = []
    begin, keep, width = 0, 0, 0
    for place, stem in enumerate(stems):
        keep, width = max(keep, stem.keep), max(width, len(stem.ids))
        rows = place + 1 - begin
        full = rows > size or rows * keep * vocabulary > LOGITS or rows * width > TOKENS
        if place > begin and (full or stem.rooted != stems[begin].rooted):
            runs.append(range(begin, place))
            begin, keep, width = place, stem.keep, len(stem.ids)
    return [*runs, range(begin, len(stems))] if stems else []


def stem_batch(
    stems: Sequence[Stem], root: int, size: int, vocabulary: int, device: torch.device, *, cached: bool
) -> StemBatch:
    """The tensors of a batch.

    Args:
        stems: all rooted or none.
        root: P, 0 where they are not.
        size: the batch size that rests are measured by.
        vocabulary: logits of a column.
        device: where the model takes its tokens.
        cached: whether keys and values may be kept, so that a batch can be run in pieces.
    """
    width, keep = max(len(stem.ids) for stem in stems), max(stem.keep for stem in stems)
    step = max(1, LOGITS // (len(stems) * vocabulary)) if cached else width
    plain = not root and not any(stem.rests for stem in stems) and keep >= PLAIN * width and step >= width
    ids, mask = _padded([stem.ids for stem in stems], left=not plain)
    mask = torch.cat([torch.ones(len(stems), root, dtype=torch.long), mask], dim=1)
    numbers = _Numbers(stems)
    of_stems = [_whole(numbers, stems, width, device)] if plain else _pieces(numbers, keep, width, step, device)
    pieces = tuple(of_stems)
    most = min(RESTS_PER_STEM * size, max(size, COLUMNS // (root + width)))
    parts = _rest_parts(numbers.rests, most, vocabulary, PASS.get(device.type, PASS_ELSEWHERE))
    rests = tuple(_rest_batch(part, numbers, mask, device) for part in parts)
    counts = [sum(1 for _ in stem.owners()) for stem in stems]
    return StemBatch(ids.to(device), mask.to(device), pieces, rests, numbers.order().to(device), counts, plain)


class _Numbers:
    """The targets of some stems, numbered stem by stem, and the order in which they are taken to be scored."""

    def __init__(self, stems: Sequence[Stem]) -> None:
        self.own: list[tuple[int, int, Target]] = []  # number, row, target
        self.rests: list[tuple[int, int, Rest]] = []  # number of the first target, row, rest
        self.taken: list[int] = []
        count = 0
        for row, stem in enumerate(stems):
            self.own += [(count + place, row, target) for place, target in enumerate(stem.targets)]
            count += len(stem.targets)
            for rest in stem.rests:
                self.rests.append((count, row, rest))
                count += len(rest.targets)
        self.rests.sort(key=lambda item: (-len(item[2].ids), item[0]))

    def take(self, found: Sequence[tuple[int, int, int, int]], device: torch.device) -> Targets:
        """The next targets to be scored: each one's number, row, column and token."""
        self.taken += [number for number, *_ in found]
        columns = torch.tensor([place for _, *place in found], dtype=torch.long, device=device).reshape(-1, 3)
        return Targets(*columns.unbind(1))

    def order(self) -> torch.Tensor:
        """Places of the scored targets in the order of their numbers."""
        return torch.tensor(self.taken, dtype=torch.long).argsort()


def _whole(numbers: _Numbers, stems: Sequence[Stem], width: int, device: torch.device) -> Piece:
    found = [(number, row, len(stems[row].ids) - 1 - t.column, t.token) for number, row, t in numbers.own]
    return Piece(0, width, width, numbers.take(found, device))


def _pieces(numbers: _Numbers, keep: int, width: int, step: int, device: torch.device) -> Iterator[Piece]:
    for begin in range(width - keep, width, step):
        end = min(begin + step, width)
        found = [
            (number, row, width - 1 - target.column - begin, target.token)
            for number, row, target in numbers.own
            if begin <= width - 1 - target.column < end
        ]
        yield Piece(0 if begin == width - keep else begin, end, end - begin, numbers.take(found, device))


def _rest_parts(
    rests: Sequence[tuple[int, int, Rest]], most: int, vocabulary: int, pays: int
) -> Iterator[list[tuple[int, int, Rest]]]:
    """Runs of the rests, longest first: at most `most` rows, within the budget of logits, with little padding."""
    begin = 0
    lengths = [len(rest.ids) for _, _, rest in rests]
    while begin < len(rests):
        fits = LOGITS // (lengths[begin] * vocabulary)
        end = min(len(rests), begin + max(1, min(most, fits)))
        saved = {cut: (lengths[begin] - lengths[cut]) * (end - cut) for cut in range(begin + 1, end)}
        best = max(saved, key=saved.__getitem__, default=end)
        if saved.get(best, 0) > pays:
            end = best
        yield list(rests[begin:end])
        begin = end


def _rest_batch(
    part: Sequence[tuple[int, int, Rest]], numbers: _Numbers, mask: torch.Tensor, device: torch.device
) -> RestBatch:
    ids, own = _padded([rest.ids for _, _, rest in part], left=False)
    stems = torch.tensor([row for _, row, _ in part])
    found = [
        (first + place, row, target.column, target.token)
        for row, (first, _, rest) in enumerate(part)
        for place, target in enumerate(rest.targets)
    ]
    whole = torch.cat([mask[stems], own], dim=1)
    return RestBatch(ids.to(device), whole.to(device), stems.to(device), numbers.take(found, device))


def _padded(rows: Sequence[array[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64; a row's own first or last token stands where it is padded."""
    width = max(map(len, rows))
    ids = torch.empty(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        there = slice(width - len(row), width) if left else slice(0, len(row))
        ids[place] = row[0] if left else row[-1]
        ids[place, there] = torch.tensor(row, dtype=torch.long)
        mask[place, there] = 1
    return ids, mask
