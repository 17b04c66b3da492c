"""Kernels whose masks look at no more than the element: RAM, consensus masks, NearSwap, Arcee's fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.engine.forms.common import PlainForm, summed, task_vectors_of
from evomerge.engine.kernels import Prepared, kernel_of
from evomerge.engine.plan import Agreed, Important, Limited, Moved
from evomerge.engine.random_bits import Keys


@dataclass(frozen=True)
class MovedForm(PlainForm):
    """As `Moved` defines it."""

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the mean of what moved."""
        (floats,) = numbers
        base, deltas = task_vectors_of(chunks)
        moved = [delta.abs() > floats[:, 1:2] for delta in deltas]
        total = summed([torch.where(mask, delta, 0.0) for mask, delta in zip(moved, deltas, strict=True)])
        count = summed([torch.where(mask, 1.0, 0.0) for mask in moved])
        return base + total / count.clamp(min=1.0) * floats[:, :1]


@kernel_of(Moved)
def _moved(plan: Moved, keys: Keys, seed: int) -> Prepared:
    return Prepared(MovedForm(tuple(range(plan.experts + 1))), np.array([plan.scale, plan.epsilon]))


@dataclass(frozen=True)
class AgreedForm(PlainForm):
    """As `Agreed` defines it; what the others add up to, T - t_i, is summed without t_i."""

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the masked sum."""
        (floats,) = numbers
        base, deltas = task_vectors_of(chunks)
        terms = [delta * floats[:, 3 + i : 4 + i] for i, delta in enumerate(deltas)]
        total = summed(terms)
        votes = [
            torch.where(term.abs() >= rest.abs() * floats[:, 1:2], 1.0, 0.0)
            for term, rest in zip(terms, _sums_of_others(terms), strict=True)
        ]
        return base + torch.where(summed(votes) >= floats[:, 2:3], total, 0.0) * floats[:, :1]


def _sums_of_others(terms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """For each term the sum of all others."""
    before, after = [torch.zeros_like(terms[0])], [torch.zeros_like(terms[0])]
    for term in terms[:-1]:
        before.append(before[-1] + term)
    for term in terms[:0:-1]:
        after.append(after[-1] + term)
    return [left + right for left, right in zip(before, reversed(after), strict=True)]


@kernel_of(Agreed)
def _agreed(plan: Agreed, keys: Keys, seed: int) -> Prepared:
    experts = [i for i, weight in enumerate(plan.weights) if weight != 0.0]
    entry = np.array([plan.scale, plan.threshold, plan.k, *(plan.weights[i] for i in experts)])
    return Prepared(AgreedForm((0, *(i + 1 for i in experts))), entry)


@dataclass(frozen=True)
class LimitedForm(PlainForm):
    """As `Limited` defines it."""

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the limited step."""
        limit = numbers[0][:, :1]
        base, expert = chunks[0].float(), chunks[1].float()
        delta = expert - base
        step = torch.where(delta > 0.0, limit, -limit)
        return torch.where(delta.abs() <= limit, expert, base + step)


@kernel_of(Limited)
def _limited(plan: Limited, keys: Keys, seed: int) -> Prepared:
    return Prepared(LimitedForm((0, 1)), np.array([plan.limit]))


@dataclass(frozen=True)
class ImportantForm(PlainForm):
    """As `Important` defines it."""

    by_row = True

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """What is important of the expert, and the rest of the base."""
        (floats,) = numbers
        base, expert = chunks[0].float(), chunks[1].float()
        return torch.where((expert - base).abs() * floats[:, :1] >= floats[:, 1:2], expert, base)


@kernel_of(Important)
def _important(plan: Important, keys: Keys, seed: int) -> Prepared:
    entry = np.stack([plan.importance, np.full_like(plan.importance, plan.threshold)], axis=1)
    return Prepared(ImportantForm((0, 1)), entry)
