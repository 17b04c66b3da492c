"""In which runs an evaluator's documents are scored, the same for every candidate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.evaluators.config import EvaluateConfig
from evomerge.evaluators.splits import rungs
from evomerge.evaluators.texts import DocumentText
from evomerge.evaluators.types import SPLITS, Document, Split, TaskMetric

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 64  # documents scored at a time: one batch of "auto"
FIRST_CHUNK = 8  # of a race, in the largest task

Rungs = tuple[tuple[tuple[Document, ...], ...], ...]


class Planned:
    """The part of an evaluator that knows its documents; a base class.

    Args:
        of_task: each task's documents in the common shuffled order.
        config: says whether candidates race, and the batch size.
    """

    def __init__(self, of_task: Mapping[str, Sequence[Document]], config: EvaluateConfig) -> None:
        batch_size = 1 if config.batch_size == "auto" else config.batch_size
        self._chunk_size = batch_size * math.ceil(CHUNK / batch_size)
        self._first = FIRST_CHUNK if config.race else None
        self._of_task = tuple(of_task)
        everything = [document for documents in of_task.values() for document in documents]
        self._order = {document: place for place, document in enumerate(everything)}
        self._plan = {split: self._rungs([d for d in everything if d.split == split], split) for split in SPLITS}

    @property
    def proxies(self) -> Mapping[str, TaskMetric]:
        """None, unless an evaluator knows something cheaper than its metrics."""
        return {}

    @property
    def needs_reference(self) -> bool:
        """No, unless an evaluator measures against the base."""
        return False

    def prompts(self, count: int) -> tuple[str, ...]:
        """None, unless an evaluator has texts."""
        return ()

    def text(self, document: Document) -> DocumentText | None:
        """None, unless an evaluator has texts."""
        return None

    def refer(self, model: PreTrainedModel) -> None:
        """Nothing is needed of the base, unless an evaluator says so."""

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The documents of a split, in the order of `chunks`."""
        return tuple(document for chunk in self.chunks(split) for document in chunk)

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        """The split in runs of one task's documents; the plan depends on configuration and data alone."""
        return tuple(chunk for rung in self._plan[split] for chunk in rung)

    def rungs(self, split: Split) -> Rungs:
        """The chunks in groups of one for each task."""
        return self._plan[split]

    def planned(self, documents: Sequence[Document]) -> Rungs:
        """Rungs for some of the documents of `search`; small at first where candidates race."""
        return self._rungs(documents, "search")

    def _rungs(self, documents: Sequence[Document], split: Split) -> Rungs:
        of_task = {name: [d for d in documents if d.task == name] for name in self._of_task}
        return rungs(of_task, self._chunk_size, self._first if split == "search" else None)

    def _by_task(self, documents: Iterable[Document]) -> dict[str, list[Document]]:
        """The documents of each task, in the common order. Raises ValueError for one of another evaluator."""
        of_task: dict[str, list[Document]] = {}
        for document in documents:
            if document not in self._order:
                raise ValueError(f"documents must come from this evaluator, but {document} does not")
            of_task.setdefault(document.task, []).append(document)
        for together in of_task.values():
            together.sort(key=self._order.__getitem__)
        return of_task
