"""Scores of a recipe: from the ledger where it has them, from the live model where it has not."""

from __future__ import annotations

import time
from dataclasses import dataclass

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import Document, DocumentScore, Scores, Split
from evomerge.search.interrupt import StopRequest
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem


@dataclass
class Spent:
    """What a candidate cost in seconds: proposing it, merging it, scoring it."""

    sampler: float = 0.0
    merge: float = 0.0
    score: float = 0.0


class Scorer:
    """Scores recipes on splits, chunk by chunk; each chunk's rows are in the ledger before the next begins."""

    def __init__(self, problem: Problem, ledger: Ledger, listener: Listener, stop: StopRequest) -> None:
        self._merger = problem.merger
        self._evaluator = problem.evaluator
        self._ledger = ledger
        self._listener = listener
        self._stop = stop
        self._live: str | None = None  # digest of the recipe that the live model holds

    def score(self, recipe: Recipe, split: Split, trial: int | None, spent: Spent | None = None) -> Scores:
        """All document scores of a recipe on a split.

        Args:
            recipe: what to score.
            split: on which documents.
            trial: the number of the trial that asks; None for a baseline.
            spent: is added to.

        Raises:
            CandidateError: when the candidate cannot be built or scored.
            InterruptedRunError: when somebody asked to stop; chunks that are done are kept.
        """
        spent = spent if spent is not None else Spent()
        known = self._ledger.scores(recipe.digest, split)
        have = {(score.task, score.document) for score in known}
        for chunk in self._evaluator.chunks(split):
            if all((document.task, document.key) in have for document in chunk):
                continue
            self._stop.check()
            self._materialize(recipe, spent)
            known += self._score_chunk(recipe, split, trial, chunk, spent)
        return Scores(tuple(known))

    def _materialize(self, recipe: Recipe, spent: Spent) -> None:
        if self._live == recipe.digest:
            return
        start = time.perf_counter()
        self._live = None
        try:
            self._merger.apply(recipe)
        except (RuntimeError, MemoryError) as error:  # out of memory, on the device or the host
            raise CandidateError(f"the candidate could not be merged: {' '.join(str(error).split())}") from error
        self._live = recipe.digest
        spent.merge += time.perf_counter() - start

    def _score_chunk(
        self, recipe: Recipe, split: Split, trial: int | None, chunk: tuple[Document, ...], spent: Spent
    ) -> list[DocumentScore]:
        start = time.perf_counter()
        scores = self._evaluator.score(self._merger.model, chunk)
        spent.score += time.perf_counter() - start
        self._ledger.record(recipe.digest, trial, split, scores)
        self._listener.documents(len(chunk))
        return scores
