"""Scores of a recipe: from the ledger where it has them, from the live model where it has not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import Document, DocumentScore, Scores, Split
from evomerge.evaluators.guard import Guard
from evomerge.search.errands import Errand, Errands
from evomerge.search.interrupt import StopRequest
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, reference_recipes

Rungs = Sequence[Sequence[Sequence[Document]]]

GUARD_PROMPTS = 4  # of each task


@dataclass
class Spent:
    """What a candidate cost in seconds: proposing it, merging it, scoring it."""

    sampler: float = 0.0
    merge: float = 0.0
    score: float = 0.0


class Scorer:
    """Scores recipes chunk by chunk; each chunk's rows are in the ledger before the next begins.

    Args:
        problem: with the live model and the evaluator.
        ledger: has what is scored.
        listener: is told of documents.
        stop: may ask to stop.
        errands: the way to other workers that help; None: there are none.
    """

    def __init__(
        self, problem: Problem, ledger: Ledger, listener: Listener, stop: StopRequest, errands: Errands | None = None
    ) -> None:
        self._problem = problem
        self._merger = problem.merger
        self._evaluator = problem.evaluator
        self._ledger = ledger
        self._listener = listener
        self._stop = stop
        self._errands = errands
        self._shares = 0  # how often others helped
        self._live: str | None = None  # digest of the recipe that the live model holds
        self._guard: Guard | None = None
        self._is_prepared = False

    def ahead(self, errands: Sequence[Errand]) -> None:
        """Score what will be asked for next together with other workers, where there are any.

        What cannot be scored is left to who asks for it, and fails there.

        Raises:
            InterruptedRunError: when somebody asked to stop.
        """
        if self._errands is not None and len(errands) > 1 and self._errands.has_helpers():
            self._errands.share(errands, self.do)
            self._shares += 1

    def do(self, errand: Errand) -> None:
        """Do an errand; a candidate that cannot be scored is left as it is."""
        rungs = self._evaluator.rungs(errand.split)
        chosen = rungs if errand.rung is None else rungs[errand.rung : errand.rung + 1]
        try:
            self.score_rungs(errand.recipe, chosen, errand.split, errand.trial)
        except CandidateError:
            return

    def score(self, recipe: Recipe, split: Split, trial: int | None, spent: Spent | None = None) -> Scores:
        """All document scores of a recipe on a split.

        Args:
            recipe: what to score.
            split: on which documents.
            trial: the number of the trial that asks; None for a baseline, which no guard looks at.
            spent: is added to.

        Raises:
            CandidateError: when the candidate cannot be built or scored.
            InterruptedRunError: when somebody asked to stop; chunks that are done are kept.
        """
        return self.score_rungs(recipe, self._evaluator.rungs(split), split, trial, spent)

    def score_rungs(
        self,
        recipe: Recipe,
        rungs: Rungs,
        split: Split,
        trial: int | None,
        spent: Spent | None = None,
        proxied: Iterable[str] = (),
    ) -> Scores:
        """The scores after the last of the rungs; arguments and errors are those of `climb`."""
        scores = Scores()
        for scores in self.climb(recipe, rungs, split, trial, spent, proxied):  # noqa: B007
            pass
        return scores

    def climb(
        self,
        recipe: Recipe,
        rungs: Rungs,
        split: Split,
        trial: int | None,
        spent: Spent | None = None,
        proxied: Iterable[str] = (),
    ) -> Iterator[Scores]:
        """After each rung all scores so far.

        Args:
            recipe: what to score.
            rungs: of documents of `split`.
            split: as in `score`.
            trial: as in `score`.
            spent: as in `score`.
            proxied: tasks to score by their stand-ins.

        Raises:
            CandidateError, InterruptedRunError: as `score` does.
        """
        spent = spent if spent is not None else Spent()
        labels = self._labels(set(proxied))
        rows, read = self._rows(recipe, split), self._shares
        scored: list[DocumentScore] = []
        for rung in rungs:
            if read != self._shares:  # others may have scored it meanwhile
                rows, read = self._rows(recipe, split), self._shares
            for chunk in rung:
                by_proxy = chunk[0].task in set(proxied)
                missing = [
                    document
                    for document in chunk
                    if any((document.task, document.key, label) not in rows for label in labels[document.task])
                ]
                if missing:
                    self._stop.check()
                    self._materialize(recipe, trial is not None, spent)
                    found = self._score_chunk(recipe, split, trial, missing, spent, by_proxy)
                    rows |= {(row.task, row.document, row.metric): row for row in found}
                scored += [rows[d.task, d.key, label] for d in chunk for label in labels[d.task]]
            yield Scores(tuple(scored))

    def _rows(self, recipe: Recipe, split: Split) -> dict[tuple[str, str, str], DocumentScore]:
        return {(row.task, row.document, row.metric): row for row in self._ledger.scores(recipe.digest, split)}

    def _labels(self, proxied: set[str]) -> Mapping[str, list[str]]:
        """For each task the metrics that make a document scored."""
        labels: dict[str, list[str]] = {}
        for task in self._evaluator.tasks:
            if task.task not in proxied:
                labels.setdefault(task.task, []).append(task.label)
        return labels | {task: [self._evaluator.proxies[task].label] for task in proxied}

    def _materialize(self, recipe: Recipe, guarded: bool, spent: Spent) -> None:
        if self._live == recipe.digest:
            return
        self._prepare()
        start = time.perf_counter()
        self.merge(recipe)
        spent.merge += time.perf_counter() - start
        if guarded and self._guard is not None:
            start = time.perf_counter()
            try:
                self._guard.check(self._merger.model)
            except CandidateError:
                self._live = None
                raise
            finally:
                spent.score += time.perf_counter() - start

    def merge(self, recipe: Recipe) -> None:
        """Write a recipe's candidate into the live model. Raises CandidateError where it cannot be built."""
        self._live = None
        try:
            self._merger.apply(recipe)
        except (RuntimeError, MemoryError) as error:  # out of memory, on the device or the host
            raise CandidateError(f"the candidate could not be merged: {' '.join(str(error).split())}") from error
        self._live = recipe.digest

    def _prepare(self) -> None:
        """Once a process: look at the sources, for what is measured against them."""
        if self._is_prepared:
            return
        self._is_prepared = True
        factor = self._problem.config.evaluate.guard
        prompts = self._evaluator.prompts(GUARD_PROMPTS)
        if factor is not None and prompts:
            self._guard = Guard(prompts, self._merger.tokenizer, factor)
        if self._guard is None and not self._evaluator.needs_reference:
            return
        sources = {"base", *(expert.name for expert in self._problem.config.models.experts)}
        for name, recipe in reference_recipes(self._problem.config).items():
            if name.removeprefix("expert ") not in sources:
                continue
            self.merge(recipe)
            if name == "base" and self._evaluator.needs_reference:
                self._evaluator.refer(self._merger.model)
            if self._guard is not None:
                self._guard.refer(self._merger.model)

    def _score_chunk(
        self,
        recipe: Recipe,
        split: Split,
        trial: int | None,
        chunk: Sequence[Document],
        spent: Spent,
        by_proxy: bool,
    ) -> list[DocumentScore]:
        start = time.perf_counter()
        scores = self._evaluator.score(self._merger.model, chunk, recipe.digest, proxy=by_proxy)
        spent.score += time.perf_counter() - start
        self._ledger.record(recipe.digest, trial, split, scores)
        self._listener.documents(len(chunk))
        return scores
