"""What a configuration wants measured: its tasks, and behind them what its constraints are about."""

from __future__ import annotations

from typing import NamedTuple

from evomerge.evaluators.config import EvaluateConfig, TaskSpec


class Entry(NamedTuple):
    """One thing to score, and its weight in the objective: 0 where a constraint alone wants it."""

    spec: TaskSpec
    weight: float

    @property
    def for_constraint(self) -> bool:
        """Whether a constraint alone wants it."""
        return self.weight == 0


def entries(config: EvaluateConfig) -> list[Entry]:
    """The tasks in the configuration's order, then the constraints' in theirs."""
    tasks = [Entry(spec, spec.weight) for spec in config.tasks]
    return tasks + [Entry(constraint.spec, 0.0) for constraint in config.constraints]
