"""What a search tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrialOutcome:
    """A finished trial.

    Attributes:
        number: counted from 0.
        origin: the warm start it was, or "sampler".
        objective: on the split `search`; of several, their weighted mean; None for a failed trial.
        reason: of the failure, or why the objective is an estimate; "" otherwise.
        tasks: each task's value of its metric.
        estimated: whether the objective is an estimate of what all documents would give.
        documents: how many were scored.
        feasible: whether it keeps all constraints.
    """

    number: int
    origin: str
    objective: float | None
    reason: str = ""
    tasks: dict[str, float] = field(default_factory=dict)
    estimated: bool = False
    documents: int = 0
    feasible: bool = True


class Listener:
    """Ignores everything; progress bars, event files and trackers override what they need."""

    def note(self, text: str) -> None:
        """A decision or warning, in one line."""

    def stage(self, name: str, total: int, done: int) -> None:
        """A stage ("search", "select", "report") of `total` steps begins, `done` of which are behind it."""

    def step(self) -> None:
        """One step of the stage is done."""

    def documents(self, scored: int) -> None:
        """So many more documents have been scored."""

    def trial(self, outcome: TrialOutcome) -> None:
        """A trial ended."""

    def result(self, result: dict[str, Any]) -> None:
        """The search has ended with this answer, as `search.comparison.compare` returns it."""

    def close(self, why: str) -> None:
        """This process leaves the search: at its end (""), or early, and why."""
