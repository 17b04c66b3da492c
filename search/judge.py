"""How one candidate is scored: by which measure, and on how many documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from evomerge.engine.recipe import Recipe
from evomerge.evaluators import Scores
from evomerge.evaluators.guard import CollapsedError
from evomerge.search.attributes import set_once, swap
from evomerge.search.constraints import Bounds
from evomerge.search.history import History
from evomerge.search.judgement import Judgement, combined_stderr, count, of_full, of_none, of_part, violations_of
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem
from evomerge.search.proxy import ANCHOR_EVERY, predicted
from evomerge.search.racing import Race
from evomerge.search.scoring import Rungs, Scorer, Spent
from evomerge.search.spending import nominal_levels
from evomerge.search.study import PROXY, SUBSET
from evomerge.search.subset import choose_subset

SUBSET_AFTER = 10  # fully scored candidates, from which an informative subset is chosen


@dataclass(frozen=True)
class Candidate:
    """A recipe on trial, what it has cost, and the trials before it."""

    recipe: Recipe
    number: int
    spent: Spent
    history: History


class Judge:
    """Decides for each candidate how it is scored; every decision is a function of the trials before it.

    Args:
        problem: says what is measured and how.
        study: keeps the trials, the choice of a subset, and how far stand-ins are trusted.
        ledger: with the document scores.
        scorer: scores.
        bounds: the constraints, on `search`.
        listener: is told of decisions.

    Attributes:
        ledger, scorer: those given.
    """

    def __init__(
        self,
        problem: Problem,
        study: optuna.Study,
        ledger: Ledger,
        scorer: Scorer,
        bounds: Bounds,
        listener: Listener,
    ) -> None:
        self._problem = problem
        self._evaluator = problem.evaluator
        self._tasks = problem.evaluator.tasks
        self._config = problem.config.evaluate
        self._study = study
        self.ledger = ledger
        self.scorer = scorer
        self._bounds = bounds
        self._listener = listener
        self._totals = Counter(document.task for document in problem.evaluator.documents("search"))
        self._cache: dict[str, Scores] = {}
        self._races: dict[bool, Race] = {}
        self._raced: dict[tuple[bool, int], Scores] = {}
        self._levels_of: dict[bool, tuple[float, ...]] = {}

    def judge(self, recipe: Recipe, number: int, spent: Spent) -> Judgement:
        """Score the candidate of trial `number`.

        Raises:
            CandidateError: when the candidate cannot be built or scored.
            InterruptedRunError: when somebody asked to stop; what is scored is kept.
        """
        history = History(self._problem, self._study, self.ledger, number, self._cache)
        candidate = Candidate(recipe, number, spent, history)
        try:
            return self._by_proxy(candidate) if self._evaluator.proxies else self._by_metric(candidate)
        except CollapsedError as error:
            if not history.full:
                raise
            return of_none(self._tasks, history, str(error))

    def _by_proxy(self, candidate: Candidate) -> Judgement:
        """By the stand-ins that are trusted; by both where that is still to be seen, or is to be seen again."""
        fits = candidate.history.fits
        self._note_proxies(candidate)
        untested = {task.task for task, fit in fits.items() if fit.is_open}
        trusted = {task.task for task in fits} - {task.task for task, fit in fits.items() if not fit.is_trusted}
        if untested or (trusted and candidate.number % ANCHOR_EVERY == 0):
            self._scores(candidate, self._evaluator.rungs("search"), untested | trusted)
            return self._in_full(candidate)
        if not trusted:
            return self._by_metric(candidate)
        judgement = self._predicted(candidate, trusted)
        return self._by_metric(candidate) if candidate.history.would_lead(judgement.means) else judgement

    def _predicted(self, candidate: Candidate, trusted: Collection[str]) -> Judgement:
        """The metric's score as the trusted stand-ins let it expect; the other tasks are scored by the metric."""
        scores = self._scores(candidate, self._evaluator.rungs("search"), trusted)
        expected = predicted(self._tasks, self._evaluator.proxies, candidate.history.fits, trusted, scores)
        means = [each.value for each in expected]
        return Judgement(
            values=candidate.history.values(means),
            means=means,
            stderr=combined_stderr(self._tasks, expected, self._config.objective),
            violations=violations_of(self._bounds, self._tasks, means),
            documents=count(scores, self._tasks),
            why=f"predicted from the reference answers' likelihood in {', '.join(sorted(trusted))}",
        )

    def _by_metric(self, candidate: Candidate) -> Judgement:
        """Rung by rung, as long as the candidate may be the best; beyond a subset only if it would lead."""
        rungs, is_subset = self._rungs(candidate.history)
        scores = Scores()
        climb = self.scorer.climb(candidate.recipe, rungs, "search", candidate.number, candidate.spent)
        for look, scores in enumerate(climb):
            why = self._why_stop(candidate.history, scores, look, is_subset) if look < len(rungs) - 1 else ""
            if why:
                return self._in_part(candidate, scores, why, is_stopped=True)
        if is_subset:
            judgement = self._in_part(candidate, scores, "estimated from the subset", is_stopped=False)
            if not candidate.history.would_lead(judgement.means):
                return judgement
        return self._in_full(candidate)

    def _why_stop(self, history: History, scores: Scores, look: int, is_subset: bool) -> str:
        """The reason to stop a candidate after rung `look`; "" to go on."""
        if self._config.race is None or not history.full or (self._config.subset is not None and not is_subset):
            return ""
        level = self._levels(history, is_subset)[look]
        if self._bounds.violated_for_sure(scores, self._totals, level):
            return "cannot keep the constraints"
        if not history.leaders:
            return ""
        race, known = self._race(history, is_subset), self._on_plan(history, is_subset)
        if self._config.objective == "pareto":
            verdict = race.dominated(scores, [known(trial) for trial in history.leaders], look)
        else:
            leader, *others = history.ranked
            verdict = race.verdict(scores, known(leader), look, [known(trial) for trial in others])
        return f"worse than the best by {-verdict.difference:.3f}" if verdict.stop else ""

    def _on_plan(self, history: History, is_subset: bool) -> Callable[[FrozenTrial], Scores]:
        """A fully scored trial's scores on the documents that candidates race on."""
        documents = [document for rung in self._rungs(history)[0] for chunk in rung for document in chunk]

        def scores(trial: FrozenTrial) -> Scores:
            if (is_subset, trial.number) not in self._raced:
                self._raced[is_subset, trial.number] = history.scores(trial).of(documents)
            return self._raced[is_subset, trial.number]

        return scores

    def _in_part(self, candidate: Candidate, scores: Scores, why: str, is_stopped: bool) -> Judgement:
        documents = self._evaluator.documents("search")
        said = f"{why}, after {count(scores, self._tasks)} of {len(documents)} documents"
        return of_part(
            self._tasks, scores, documents, self._bounds, candidate.history, self._config.objective, said, is_stopped
        )

    def _in_full(self, candidate: Candidate) -> Judgement:
        scores = self._scores(candidate, self._evaluator.rungs("search"))
        return of_full(self._tasks, scores, self._bounds, candidate.history, self._config.objective)

    def _scores(self, candidate: Candidate, rungs: Rungs, proxied: Collection[str] = ()) -> Scores:
        return self.scorer.score_rungs(candidate.recipe, rungs, "search", candidate.number, candidate.spent, proxied)

    def _race(self, history: History, is_subset: bool) -> Race:
        if is_subset not in self._races:
            racing = self._config.race
            assert racing is not None
            rungs, _ = self._rungs(history)
            self._races[is_subset] = Race(self._tasks, self._config.objective, racing, rungs)
        return self._races[is_subset]

    def _levels(self, history: History, is_subset: bool) -> tuple[float, ...]:
        """At each look the level at which a constraint is given up, so that all looks together keep the error."""
        if is_subset not in self._levels_of:
            racing = self._config.race
            assert racing is not None
            sizes = [sum(map(len, rung)) for rung in self._rungs(history)[0]]
            shares = [float(passed / sum(sizes)) for passed in accumulate(sizes)]
            self._levels_of[is_subset] = nominal_levels(racing.error, shares)
        return self._levels_of[is_subset]

    def _rungs(self, history: History) -> tuple[Rungs, bool]:
        """The rungs to climb, and whether they are of a subset."""
        everything = self._evaluator.rungs("search")
        if self._config.subset is None:
            return everything, False
        chosen = self._study.user_attrs.get(SUBSET) or self._choose_subset(history)
        if chosen is None:
            return everything, False
        places = {tuple(place) for place in chosen["documents"]}
        documents = [each for each in self._evaluator.documents("search") if (each.task, each.key) in places]
        return self._evaluator.planned(documents), True

    def _choose_subset(self, history: History) -> dict[str, Any] | None:
        """Once, as soon as enough candidates are scored in full; kept in the study."""
        if len(history.full) < SUBSET_AFTER:
            return None
        assert self._config.subset is not None
        full = [history.scores(trial) for trial in history.full]
        documents = self._evaluator.documents("search")
        subset = choose_subset(self._tasks, self._config.objective, full, documents, self._config.subset)
        chosen = {
            "documents": [[document.task, document.key] for document in subset.documents],
            "error": subset.error,
            "noise": subset.noise,
            "of": len(documents),
            "candidates": len(full),
        }
        if not set_once(self._study, SUBSET, chosen):  # another worker was quicker, and may have known more
            return dict(self._study.user_attrs[SUBSET])
        self._listener.note(
            f"subset: {len(subset.documents)} of {len(documents)} documents stand for all from here on; they miss the "
            f"objective by {subset.error:.3f} over the {len(full)} candidates so far (root mean square; as a sample, "
            f"all documents have a standard error of {subset.noise:.3f})"
        )
        return chosen

    def _note_proxies(self, candidate: Candidate) -> None:
        """Keep how far stand-ins are trusted, and say so when that changes."""
        fits = candidate.history.fits
        told = {
            f"{task.task} {task.label}": {
                "correlation": fit.correlation,
                "pairs": fit.pairs,
                "leads": fit.is_trusted,
            }
            for task, fit in fits.items()
        }
        before = self._study.user_attrs.get(PROXY)
        if told == before or not swap(self._study, PROXY, before, told):
            return  # nothing new, or another worker says the same at this moment
        for name, now in told.items():
            if now["leads"] != (before or {}).get(name, {}).get("leads", False):
                verb = "leads the search" if now["leads"] else "does not lead any more"
                self._listener.note(
                    f"stand-in of {name}: rank correlation {now['correlation']:.2f} with the metric over "
                    f"{now['pairs']} candidates; it {verb}"
                )
