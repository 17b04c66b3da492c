"""Task vectors that are trimmed, dropped from at random, elected and summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from evomerge.engine.della import survives
from evomerge.engine.forms.common import KEEPS_ALL, elected, summed, task_vectors_of, threshold
from evomerge.engine.kernels import Critical, Prepared, Rows, Source, kernel_of
from evomerge.engine.plan import EVERY, NOTHING, Keep, TaskVectors
from evomerge.engine.random_bits import HALF, Keys, element_hash, expert_word, row_seeds, signed


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
        """float32 [r, 1 + 2n ... 1 + 4n]: scale, weights, scaled weights, then floors, ceilings or densities as far as
        the form has them; int32 [r, 2 + 3n] if random."""
        n = self.experts
        shared, own = table[:, :3], table[:, 3:].view(-1, n, COLUMNS)
        floats = [torch.cat([shared[:, :1], own[:, :, 0], own[:, :, 1]], dim=1).float()[rows.parameter]]
        if self.floor:
            floats.append(threshold(own[:, :, 3:5], own[:, :, 2], rows))
        if self.ceiling:
            floats.append(threshold(own[:, :, 5:7], own[:, :, 2], rows))
        if self.critical:
            floats.append(own[:, :, 8].float()[rows.parameter])
        if not self.random:
            return (torch.cat(floats, dim=1),)
        key = (shared[:, 1].long()[rows.parameter], shared[:, 2].long()[rows.parameter])
        cuts = (own[:, :, 7] - 1 - HALF).clamp(min=-HALF).int()
        words = torch.cat([signed(own[:, :, 9].long()), signed(own[:, :, 2].long() | 1), cuts], dim=1)
        seeds = torch.stack(row_seeds(key, rows.number * rows.width), dim=1)
        return torch.cat(floats, dim=1), torch.cat([seeds, words[rows.parameter]], dim=1)

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the merged task vector."""
        n = self.experts
        base, deltas = task_vectors_of(chunks[: 1 + n])
        scale, *columns = numbers[0].unsqueeze(2).unbind(1)
        terms = [delta * scaled for delta, scaled in zip(deltas, columns[n : 2 * n], strict=True)]
        masks = self._masks(deltas, chunks[1 + n :], columns[2 * n :], numbers)
        for i, keep in enumerate(masks):
            for mask in keep:
                terms[i] = torch.where(mask, terms[i], 0.0)
        if not self.elect:
            return base + summed(terms) * scale
        weights = columns[:n] if self.normalize else None
        return base + elected(terms, terms, summed(terms), weights) * scale

    def _masks(
        self,
        deltas: Sequence[torch.Tensor],
        critical: Sequence[torch.Tensor],
        limits: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor],
    ) -> list[list[torch.Tensor]]:
        """Which elements of each task vector survive: all that every one of its masks lets through."""
        n = self.experts
        masks: list[list[torch.Tensor]] = [[] for _ in deltas]
        for i, delta in enumerate(deltas):
            own = iter(limits[i::n])
            if self.floor:
                masks[i].append(delta.abs() > next(own))
            if self.ceiling:
                masks[i].append(delta.abs() <= next(own))
            if self.critical:
                masks[i].append(survives(critical[i], next(own)))
            if self.random:
                element = element_hash(numbers[1][:, :1], numbers[1][:, 1:2], delta.shape[1])
                key, multiplier, cut = (numbers[1][:, k : k + 1] for k in (2 + i, 2 + n + i, 2 + 2 * n + i))
                masks[i].append(expert_word(element, key, multiplier) <= cut)
        return masks


ALWAYS = 4.0
"""A density above every critical density."""

COLUMNS = 10
"""Numbers that an expert has in the table: weight, weight times scale, its key's high word, the floor's value and ties,
the ceiling's likewise, cut, density, its key's low word."""


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
    scaled = weight * rule.scale if rule.cut > 0 else 0.0
    floor, ceiling = rule.floor or KEEPS_ALL, rule.ceiling or NOTHING
    density = ALWAYS if rule.density is None else rule.density
    key = keys.experts[i]
    return (weight, scaled, key.high, *floor, *ceiling, rule.cut, density, key.low)
