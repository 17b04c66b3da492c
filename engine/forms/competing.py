"""PCB: task vectors averaged by the scores of a competition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.engine.competition import Columns, excess
from evomerge.engine.forms.common import KEEPS_ALL, PlainForm, summed, task_vectors_of, threshold
from evomerge.engine.kernels import Prepared, Rows, kernel_of
from evomerge.engine.plan import Competing, pairs
from evomerge.engine.random_bits import Keys


@dataclass(frozen=True)
class CompetingForm(PlainForm):
    """As `Competing` defines it. Its sources are the base and those experts that compete, n of them."""

    @property
    def experts(self) -> int:
        """n."""
        return len(self.sources) - 1

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """float32 [r, 1 + 3n + ...]: scale, floors, weights, levels and the columns of the `Competition`."""
        n = self.experts
        own = table[:, 1 : 1 + 3 * n].view(-1, n, 3)
        floors = threshold(own[:, :, 1:], own[:, :, 0], rows)
        scale, others = table[:, :1].float()[rows.parameter], table[:, 1 + 3 * n :].float()[rows.parameter]
        return (torch.cat([scale, floors, others], dim=1),)

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The base plus the merged task vector."""
        n = self.experts
        base, deltas = task_vectors_of(chunks)
        column = iter(numbers[0].unsqueeze(2).unbind(1))
        scale, floors, weights, levels = next(column), _take(column, n), _take(column, n), _take(column, n)
        columns = self._columns(column)
        memo: dict[tuple[int, int], torch.Tensor] = {}
        scores, terms = [], []
        for i, delta in enumerate(deltas):
            found = excess(i, deltas, columns, memo)
            scores.append(torch.where(found > floors[i], (1.0 + found) * levels[i], 0.0))
            terms.append(scores[i] * (delta * weights[i]))
        total = summed(scores)
        return base + summed(terms) / torch.where(total > 0.0, total, 1.0) * scale

    def _columns(self, column: Iterator[torch.Tensor]) -> Columns:
        n = self.experts
        lowest, strength = _take(column, n), _take(column, n)
        center, inverse = _take(column, len(pairs(n))), _take(column, len(pairs(n)))
        return Columns(lowest, strength, center, inverse, [_take(column, n) for _ in range(n)])


def _take(column: Iterator[torch.Tensor], count: int) -> list[torch.Tensor]:
    return [next(column) for _ in range(count)]


@kernel_of(Competing)
def _competing(plan: Competing, keys: Keys, seed: int) -> Prepared:
    experts = [i for i, weight in enumerate(plan.weights) if weight != 0.0]
    entry = [plan.scale]
    for i, floor in zip(experts, plan.floor, strict=True):
        entry += [keys.experts[i].high, *(floor or KEEPS_ALL)]
    entry += [plan.weights[i] for i in experts]
    entry += plan.level
    for numbers in (*plan.competition[:4], *plan.competition.share):
        entry += numbers
    return Prepared(CompetingForm((0, *(i + 1 for i in experts))), np.array(entry))
