"""The element-wise kernels, written once in plain PyTorch, and the numbers that they take from plans.

A form is a kernel without its numbers: plans of equal form run together, over any number of parameters at once.
Parameters lie in rows of `width` elements (`evomerge.engine.arena`), and every number is one for each row. Eager
or compiled, on any device and in chunks of any size, the results have the same bits: all arithmetic is float32,
each product is rounded before it is added, and nothing depends on more than the element and its row.

Notation: r rows, w their width, n experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from evomerge.engine.plan import EVERY, NO_DIRECTION, Array, Combination, Cut, Keep, Plan, TaskVectors
from evomerge.engine.random_bits import GOLDEN, HALF, WORD, Keys, element_hash, expert_word, row_seeds, row_word, signed

TINY = 1e-25
"""A sum of weighted task vectors smaller than this counts as zero when a sign is elected."""

SMALLEST = 1e-45
"""The smallest positive float32, about."""


class Critical(NamedTuple):
    """A derived source: the critical densities of an expert's task vector, float16 (`evomerge.engine.della`).

    Attributes:
        expert: the expert's place among the sources.
        epsilon: half the width of the range of probabilities.
        seed: of the recipe.
    """

    expert: int
    epsilon: float
    seed: int


Source = int | Critical
"""0 is the base, i the recipe's expert number i - 1; or a source derived from these."""


class Rows(NamedTuple):
    """Where the rows of a chunk lie in their parameters.

    Attributes:
        parameter: int64 [r]; the position of the parameter in the table of numbers.
        number: int64 [r]; the row's number in its parameter.
        width: elements a row.
    """

    parameter: torch.Tensor
    number: torch.Tensor
    width: int


class Form(Protocol):
    """A kernel without its numbers; equal forms run together."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """What it reads, in order. Nothing else has an influence on the result."""

    @property
    def signature(self) -> object:
        """Equal for forms whose bodies are the same, whichever sources they are given."""

    @property
    def by_row(self) -> bool:
        """Whether it works on the parameter's own rows (of its last axis) instead of the arena's."""

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """What the body needs, each [r, any] and one row for each row, from the rows' entries in the table [r, k]."""

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """From a chunk [r, w] of each source to the result, float32 [r, w], in memory of its own."""


class Prepared(NamedTuple):
    """A plan made ready to run.

    Attributes:
        form: its kernel.
        entry: its numbers, k of them: float64 [k], or [rows, k] where the kernel works on the parameter's own rows.
    """

    form: Form
    entry: Array


KERNELS: dict[type, Callable[[Any, Keys, int], Prepared]] = {}


def kernel_of(plan: type) -> Callable[[Callable[[Any, Keys, int], Prepared]], Callable[[Any, Keys, int], Prepared]]:
    """Register the decorated function, from (plan, keys, seed) to `Prepared`, as the kernel of a type of plans."""

    def register(function: Callable[[Any, Keys, int], Prepared]) -> Callable[[Any, Keys, int], Prepared]:
        KERNELS[plan] = function
        return function

    return register


def prepare(plan: Plan, keys: Keys, seed: int) -> Prepared:
    """The kernel of a plan and its numbers. Raises KeyError when no kernel is registered for its type."""
    return KERNELS[type(plan)](plan, keys, seed)


@dataclass(frozen=True)
class CombinationForm:
    """sum_j c_j s_j, added in the order of the sources."""

    sources: tuple[Source, ...]
    by_row: bool = False

    @property
    def signature(self) -> object:
        """The number of sources says it all."""
        return type(self), len(self.sources)

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """The coefficients, float32 [r, j]."""
        return (table.float(),)

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum."""
        (coefficients,) = numbers
        result = chunks[0].float() * coefficients[:, :1]
        for j, chunk in enumerate(chunks[1:], 1):
            result = result + chunk.float() * coefficients[:, j : j + 1]
        return result


@kernel_of(Combination)
def _combination(plan: Combination, keys: Keys, seed: int) -> Prepared:
    coefficients = (plan.base, *plan.experts)
    by_row = any(isinstance(c, np.ndarray) for c in coefficients)
    active = tuple(i for i, c in enumerate(coefficients) if isinstance(c, np.ndarray) or c != 0.0) or (0,)
    entry = np.stack(np.broadcast_arrays(*(np.asarray(coefficients[i], dtype=np.float64) for i in active)), axis=-1)
    return Prepared(CombinationForm(active, by_row), entry)


@dataclass(frozen=True)
class TaskVectorForm:
    """b + scale * D, as `TaskVectors` defines it.

    Attributes:
        sources: the base, n experts, and the critical densities of each under `critical`.
        experts: n.
        elect, normalize: as in the plan.
        floor, ceiling, random, critical: which of the rules of `Keep` any expert has.
    """

    sources: tuple[Source, ...]
    experts: int
    elect: bool
    normalize: bool
    floor: bool
    ceiling: bool
    random: bool
    critical: bool
    by_row: bool = False

    @property
    def signature(self) -> object:
        """Everything but which sources they are."""
        return replace(self, sources=())

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """float32 [r, 1 + 4n]: scale, weights, scaled weights, floors, ceilings; int32 [r, 2 + 2n] if random."""
        n = self.experts
        shared, own = table[:, :3], table[:, 3:].view(-1, n, COLUMNS)
        word = row_word(own[:, :, 2].long(), rows.number[:, None])
        floors = torch.where(word < own[:, :, 5].long(), own[:, :, 4], own[:, :, 3])
        ceilings = torch.where(word < own[:, :, 8].long(), own[:, :, 7], own[:, :, 6])
        if self.critical:
            ceilings = own[:, :, 10]
        floats = torch.cat([shared[:, :1], own[:, :, 0], own[:, :, 1], floors, ceilings], dim=1).float()
        if not self.random:
            return (floats,)
        key = (shared[:, 1].long(), shared[:, 2].long())
        seeds = torch.stack(row_seeds(key, rows.number * rows.width), dim=1)
        cuts = (own[:, :, 9] - 1 - HALF).clamp(min=-HALF).int()
        return floats, torch.cat([seeds, signed(own[:, :, 11].long()), cuts], dim=1)

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the merged task vector."""
        n, floats = self.experts, numbers[0]
        base = chunks[0].float()
        column = [floats[:, k : k + 1] for k in range(1 + 4 * n)]
        terms = [
            self._kept(i, chunks[1 + i].float() - base, chunks, numbers, column) for i in range(n)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        if not self.elect:
            return base + total * column[0]
        return base + self._elected(terms, total + TINY, column) * column[0]

    def _kept(
        self,
        i: int,
        delta: torch.Tensor,
        chunks: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor],
        column: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """w_i keep_i(d_i)."""
        n = self.experts
        keep = []
        if self.floor:
            keep.append(delta.abs() > column[1 + 2 * n + i])
        if self.ceiling:
            keep.append(delta.abs() <= column[1 + 3 * n + i])
        if self.critical:
            keep.append(chunks[1 + n + i].float() < column[1 + 3 * n + i])
        if self.random:
            words = numbers[1]
            element = element_hash(words[:, :1], words[:, 1:2], delta.shape[1])
            keep.append(expert_word(element, words[:, 2 + i : 3 + i]) <= words[:, 2 + n + i : 3 + n + i])
        term = delta * column[1 + n + i]
        for mask in keep:
            term = torch.where(mask, term, 0.0)
        return term

    def _elected(
        self, terms: Sequence[torch.Tensor], total: torch.Tensor, column: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """sum_i m_i t_i, divided by sum_i m_i w_i under `normalize`."""
        merged = divisor = torch.zeros_like(total)
        for i, term in enumerate(terms):
            agrees = term * total > 0.0
            kept = torch.where(agrees, term, 0.0)
            merged = kept if i == 0 else merged + kept
            if self.normalize:
                weight = torch.where(agrees, column[1 + i], 0.0)
                divisor = weight if i == 0 else divisor + weight
        if not self.normalize:
            return merged
        return merged / torch.where(divisor.abs() < NO_DIRECTION, 1.0, divisor)


COLUMNS = 12
"""Numbers an expert has in the table of a `TaskVectorForm`: weight, weight times scale, the row words' key, the floor's
value, value below and ties, the ceiling's likewise, cut, density, the key of the element words."""


@kernel_of(TaskVectors)
def _task_vectors(plan: TaskVectors, keys: Keys, seed: int) -> Prepared:
    experts = [i for i, weight in enumerate(plan.weights) if weight != 0.0]
    rules = [plan.keep[i] for i in experts]
    critical = any(rule.density is not None for rule in rules)
    derived = tuple(Critical(i + 1, plan.keep[i].epsilon, seed) for i in experts) if critical else ()
    form = TaskVectorForm(
        sources=(0, *(i + 1 for i in experts), *derived),
        experts=len(experts),
        elect=plan.elect,
        normalize=plan.normalize,
        floor=any(rule.floor is not None for rule in rules),
        ceiling=any(rule.ceiling is not None for rule in rules),
        random=any(rule.cut < EVERY for rule in rules),
        critical=critical,
    )
    own = [_expert_numbers(plan.weights[i], plan.keep[i], keys, i) for i in experts]
    return Prepared(form, np.array([plan.scale, *keys.element, *(number for row in own for number in row)]))


def _expert_numbers(weight: float, rule: Keep, keys: Keys, i: int) -> tuple[float, ...]:
    floor = rule.floor or Cut(-1.0)
    ceiling = rule.ceiling or Cut(float("inf"))
    scaled = weight * rule.scale if rule.cut > 0 else 0.0
    return (
        weight, scaled, keys.experts[i].high, floor.value, floor.below, floor.ties, ceiling.value, ceiling.below,
        ceiling.ties, rule.cut, 2.0 if rule.density is None else rule.density, keys.experts[i].low,
    )  # fmt: skip
