"""How experts get along: angles, signs and lengths of their task vectors, by layer, from a sample of the weights.

Of a parameter with more than `SAMPLE` elements, evenly spaced runs of so many in all are read, and its
cosine is right to 1 / sqrt(SAMPLE), .004. Memory is bounded by the sample, whatever the models' size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.engine.alignment import Alignment, Reading
from evomerge.engine.layers import MODULES

SAMPLE = 2**16
"""Elements of a parameter that are read, at most."""

RUNS = 16
"""Evenly spaced runs that they are read in."""

LARGE = 0.2
"""Share of an expert's changes, the largest, whose signs are compared: what TIES keeps (arXiv:2306.01708)."""

OUTSIDE = "outside"
"""The label of what lies in no layer: embeddings, the last norm, the head."""

Array = NDArray[np.float64]


@dataclass
class Sums:
    """What is summed over parameters.

    Attributes:
        gram: inner products of the base (row 0) and the task vectors, [n + 1, n + 1].
        both: elements among the largest of both experts, [n, n].
        agree: those of them where both have the same sign, [n, n].
    """

    gram: Array
    both: Array
    agree: Array

    @classmethod
    def none(cls, experts: int) -> Sums:
        """Nothing yet."""
        return cls(np.zeros((experts + 1,) * 2), np.zeros((experts,) * 2), np.zeros((experts,) * 2))

    def __iadd__(self, other: Sums) -> Sums:
        self.gram += other.gram
        self.both += other.both
        self.agree += other.agree
        return self

    def cosine(self, one: int, other: int) -> float | None:
        """Of the angle between two experts' task vectors; None where one of them is zero."""
        product = self.gram[one + 1, one + 1] * self.gram[other + 1, other + 1]
        return float(self.gram[one + 1, other + 1] / math.sqrt(product)) if product > 0 else None

    def signs(self, one: int, other: int) -> float | None:
        """The share of agreeing signs, .5 by chance; None where no large change is in the same place."""
        both = self.both[one, other]
        return float(self.agree[one, other] / both) if both > 0 else None

    def length(self, expert: int) -> float:
        """Of an expert's task vector, relative to the base's weights."""
        base = self.gram[0, 0]
        return math.sqrt(self.gram[expert + 1, expert + 1] / base) if base > 0 else 0.0


class Place(NamedTuple):
    """Where sums are kept: a layer's label and a module group."""

    layer: str
    module: str


@dataclass(frozen=True)
class Conflict:
    """How experts get along.

    Attributes:
        experts: their names.
        layers: labels in order of depth; what lies outside of layers first.
        sums: by place.
        share: of all weights that was read.
    """

    experts: tuple[str, ...]
    layers: tuple[str, ...]
    share: float
    sums: dict[Place, Sums] = field(default_factory=dict)

    def of(self, layer: str | None = None, module: str | None = None) -> Sums:
        """The sums over all places of a layer and a module group; None: over all."""
        total = Sums.none(len(self.experts))
        for place, sums in self.sums.items():
            if layer in (None, place.layer) and module in (None, place.module):
                total += sums
        return total

    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of experts."""
        return [(one, other) for one in range(len(self.experts)) for other in range(one + 1, len(self.experts))]

    def as_data(self, advice: Sequence[str]) -> dict[str, Any]:
        """Plain data.

        Returns:
            {experts, layers, share, lengths: {expert: [by layer]}, pairs: [{a, b, cosine: [by layer], signs: [by
            layer], overall: {cosine, signs}, modules: {group: {cosine: [by layer], signs: [by layer]}}}], advice}.
            A number is null where a task vector is zero there, or large changes do not meet.
        """
        by_layer = [self.of(layer) for layer in self.layers]
        modules = {m: [self.of(layer, m) for layer in self.layers] for m in MODULES}
        everything = self.of()
        return {
            "experts": list(self.experts),
            "layers": list(self.layers),
            "share": round(self.share, 4),
            "lengths": {
                name: [_rounded(sums.length(place)) for sums in by_layer] for place, name in enumerate(self.experts)
            },
            "pairs": [
                {
                    "a": self.experts[one],
                    "b": self.experts[other],
                    **_rows(by_layer, one, other),
                    "overall": {
                        "cosine": _rounded(everything.cosine(one, other)),
                        "signs": _rounded(everything.signs(one, other)),
                    },
                    "modules": {module: _rows(sums, one, other) for module, sums in modules.items()},
                }
                for one, other in self.pairs()
            ],
            "advice": list(advice),
        }


def conflict_of(alignment: Alignment, sample: int = SAMPLE) -> Conflict:
    """Read a sample of every parameter and sum it up.

    Args:
        alignment: the models in one shape.
        sample: elements of a parameter that are read, at most.

    Raises:
        InputError: a file cannot be read.
    """
    names = tuple(checkpoint.name for checkpoint in alignment.checkpoints[1:])
    layers = (OUTSIDE, *map(str, range(alignment.layout.num_layers)))
    sums: dict[Place, Sums] = {}
    read = total = 0
    for slot in alignment.layout.slots:
        numel = slot.live.numel()
        parts = [_sampled(readings[slot.name], numel, sample) for readings in alignment.readings]
        place = Place(OUTSIDE if slot.place.layer is None else str(slot.place.layer), slot.place.module)
        found = _summed(parts[0], [part - parts[0] for part in parts[1:]], numel)
        sums.setdefault(place, Sums.none(len(names)))
        sums[place] += found
        read, total = read + parts[0].numel(), total + numel
    return Conflict(names, layers, read / total if total else 1.0, sums)


def _sampled(reading: Reading, numel: int, sample: int) -> torch.Tensor:
    """Up to `sample` elements as float32, in evenly spaced runs."""
    if numel <= sample:
        out = torch.empty(numel, dtype=reading.dtype)
        reading.fill(out, 0)
        return out.float()
    length = sample // RUNS
    out = torch.empty(length * RUNS, dtype=reading.dtype)
    for run in range(RUNS):
        reading.fill(out[run * length : (run + 1) * length], run * (numel - length) // (RUNS - 1))
    return out.float()


def _summed(base: torch.Tensor, deltas: Sequence[torch.Tensor], numel: int) -> Sums:
    """The sums of one parameter, as if all of it had been read."""
    scale = numel / max(base.numel(), 1)
    stacked = torch.stack([base, *deltas])
    gram = (stacked.double() @ stacked.double().T).numpy() * scale
    large = torch.stack([_largest(delta) for delta in deltas])
    up = (large & torch.stack([delta > 0 for delta in deltas])).float()
    down = large.float() - up
    both = (large.float() @ large.float().T).double().numpy() * scale
    agree = (up @ up.T + down @ down.T).double().numpy() * scale
    return Sums(gram, both, agree)


def _largest(delta: torch.Tensor) -> torch.Tensor:
    """Which elements are among the largest that are not zero."""
    size = delta.abs()
    keep = max(math.ceil(LARGE * size.numel()), 1)
    if size.numel() == 0:
        return torch.zeros_like(size, dtype=torch.bool)
    threshold = size.kthvalue(size.numel() - keep + 1).values
    return (size >= threshold) & (size > 0)


def _rows(sums: Sequence[Sums], one: int, other: int) -> dict[str, list[float | None]]:
    return {
        "cosine": [_rounded(each.cosine(one, other)) for each in sums],
        "signs": [_rounded(each.signs(one, other)) for each in sums],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
