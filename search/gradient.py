"""The warm start `gradient`: from the best candidate so far along the gradient of its reference answers' likelihood.

The steps (`search.reference_descent`) are taken on one part of the documents of `search`; what comes out is proposed
only if it scores higher than its start, by the metrics themselves, on the other part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import Document, Scores
from evomerge.evaluators.objective import objective
from evomerge.evaluators.types import titles
from evomerge.search.bootstrap import difference_interval
from evomerge.search.constraints import Bounds
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.search.mirror import whole_point
from evomerge.search.problem import Problem
from evomerge.search.reference_descent import Descent, Progress, held_back, mean_weights, worst_weights
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.study import best_of, full_trials, trial_recipe
from evomerge.spaces import Point

if TYPE_CHECKING:
    from evomerge.evaluators.teaching import Teacher

GRADIENT = "evomerge:gradient"
"""In the study, of the last gradient: {trial, start, steps, documents, seconds, kept, before, after, stderr, losses,
point}. `before` and `after` are objectives on the documents held back, None where nothing was scored there; `losses`
each task's mean loss there before the steps and where they were the best."""

_PROGRESS = "evomerge:gradient progress"
_NORMAL = 2 * 1.96  # standard errors between the ends of an interval of 95 %


class GradientStart:
    """Points that gradients lead to, each from the best candidate that a study had.

    Args:
        problem: with the live model, the space and the evaluator.
        study: with the trials so far; keeps how far the steps are, so that interrupted ones go on.
        scorer: of the same problem.
        listener: is told, in one line, what came out.
        stop: is looked at between steps.

    Attributes:
        documents: what the steps of this process cost, in documents scored: one that is run backward counts as three.
    """

    def __init__(
        self,
        problem: Problem,
        study: optuna.Study,
        scorer: Scorer,
        listener: Listener,
        stop: StopRequest,
    ) -> None:
        self._problem = problem
        self._space = problem.space
        self._tasks = problem.evaluator.tasks
        self._kind = problem.config.evaluate.objective
        self._study = study
        self._scorer = scorer
        self._listener = listener
        self._stop = stop
        self._known: Teacher | None = None
        self.documents = 0

    def point(self, number: int) -> Point | None:
        """Where the gradient leads from the best candidate among the full trials so far.

        It depends on these trials, the run's seed and the models alone; after an interruption it is found again.

        Returns:
            None where nothing better was found; the listener is told why.

        Raises:
            InterruptedRunError: when somebody asked to stop; the steps up to the last look are kept.
        """
        told = self._study.user_attrs.get(GRADIENT, {})
        if told.get("trial") == number:
            return told["point"] if told["kept"] else None
        trials = [trial for trial in full_trials(self._study) if trial.number != number]
        if not trials:
            self._listener.note("no gradient: no candidate has been scored in full")
            return None
        weights = self._task_weights()
        if not weights:
            reasons = "; ".join(f"{task}: {reason}" for task, reason in self._teacher.without.items())
            self._listener.note(f"no gradient: no task has reference answers to follow ({reasons})")
            return None
        progress = self._progress(number, best_of(trials, self._tasks))
        (start,) = (trial for trial in trials if trial.number == progress.start)
        learn, held = held_back(self._problem.evaluator.documents("search"))
        before = self._scores(trial_recipe(start), held, start.number)
        self._descend(progress, weights, before, learn, held)
        return self._decide(progress, before, held)

    @property
    def _teacher(self) -> Teacher:
        if self._known is None:
            from evomerge.evaluators.teaching import Teacher

            self._known = Teacher(self._problem.evaluator, self._problem.merger.model)
        return self._known

    def _task_weights(self) -> dict[str, float]:
        """The weights of the tasks that can be learned from: those in the objective, with reference answers."""
        weights: dict[str, float] = {}
        for task in self._tasks:
            if task.weight > 0 and task.task in self._teacher.lessons:
                weights[task.task] = weights.get(task.task, 0.0) + task.weight
        return weights

    def _progress(self, number: int, start: FrozenTrial) -> Progress:
        """Where an interrupted run was with this trial, or the beginning."""
        kept = self._study.user_attrs.get(_PROGRESS, {})
        if kept.get("trial") == number:
            return Progress(**kept)
        whole = whole_point(start)
        return Progress(number, start.number, dict(whole), dict(whole))

    def _descend(
        self,
        progress: Progress,
        weights: Mapping[str, float],
        before: Scores,
        learn: Mapping[str, Sequence[Document]],
        held: Sequence[Document],
    ) -> None:
        learned = {task: learn[task] for task in weights if learn[task]}
        spent = progress.documents
        shares = mean_weights({task: weights[task] for task in learned}) if learned else {}
        level = {task.task: task.sign * before.number(task) for task in self._tasks}

        def levels(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
            return {task: level[task] + losses[0][task] - losses[-1][task] for task in learned}

        def weighed(losses: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
            return worst_weights(levels(losses)) if self._kind == "worst" else shares

        def worth(losses: Sequence[Mapping[str, float]]) -> float:
            if self._kind == "worst":
                return -min(levels(losses).values())
            return sum(share * losses[-1][task] for task, share in shares.items())

        watched = [document for document in held if document.task in learned]
        descent = Descent(self._problem, self._scorer, self._teacher, weighed, worth, learned, watched)
        if not learned:
            progress.is_over = True
        try:
            descent.run(progress, self._save, self._stop)
        finally:
            self.documents += progress.documents - spent

    def _save(self, progress: Progress) -> None:
        self._study.set_user_attr(_PROGRESS, asdict(progress))

    def _decide(self, progress: Progress, before: Scores, held: Sequence[Document]) -> Point | None:
        after, why = None, ""
        if progress.best == 0:
            why = "the loss on documents held back does not fall"
        else:
            try:
                after = self._scores(self._space.recipe(progress.best_point), held, progress.trial)
            except CandidateError as error:
                why = str(error)
        gain, stderr = math.nan, math.nan
        if after is not None:
            gain, low, high = difference_interval(
                after, before, self._tasks, self._kind, self._problem.config.search.seed
            )
            stderr = (high - low) / _NORMAL
            broken = self._broken(before, after)
            if not gain > 0:
                why = "it does not score higher there"
            elif broken:
                why = f"it breaks {', '.join(broken)} there"
        outcome = self._outcome(progress, before, after, gain, stderr, kept=not why)
        self._listener.note(self._line(progress, before, after, gain, stderr, why))
        self._study.set_user_attr(GRADIENT, outcome)
        self._study.set_user_attr(_PROGRESS, {})
        return None if why else dict(progress.best_point)

    def _scores(self, recipe: Recipe, documents: Sequence[Document], trial: int) -> Scores:
        """The recipe's scores on these documents of `search`. Raises CandidateError, InterruptedRunError."""
        return self._scorer.score_rungs(recipe, self._problem.evaluator.planned(documents), "search", trial)

    def _broken(self, before: Scores, after: Scores) -> list[str]:
        """The constraints that the start keeps and the outcome does not."""
        if not self._problem.config.evaluate.constraints:
            return []
        bounds: Bounds = resolve_bounds(self._problem, self._scorer, "search")
        kept, found = bounds.violations(before), bounds.violations(after)
        return [name for name, violation in found.items() if violation > 0 and kept[name] <= 0]

    def _outcome(
        self, progress: Progress, before: Scores, after: Scores | None, gain: float, stderr: float, *, kept: bool
    ) -> dict[str, Any]:
        old = objective(before, self._tasks, self._kind)
        return {
            "trial": progress.trial,
            "start": progress.start,
            "steps": progress.steps,
            "documents": progress.documents,
            "seconds": progress.seconds,
            "kept": kept,
            "before": None if after is None else old,
            "after": None if after is None else old + gain,
            "stderr": stderr if math.isfinite(stderr) else None,
            "losses": [progress.losses[place] for place in (0, progress.best)] if progress.losses else [],
            "point": progress.best_point if kept else {},
        }

    def _line(
        self, progress: Progress, before: Scores, after: Scores | None, gain: float, stderr: float, why: str
    ) -> str:
        """What the listener is told."""
        told = [f"gradient from trial {progress.start}: {progress.steps} steps, {progress.documents} documents"]
        if progress.losses:
            first, best = progress.losses[0], progress.losses[progress.best]
            losses = ", ".join(f"{task} {first[task]:.3f} to {best[task]:.3f}" for task in first)
            told.append(f"loss on documents held back {losses}")
        if after is not None:
            moved = ", ".join(
                f"{title} {before.number(task):.3f} to {after.number(task):.3f}"
                for title, task in zip(titles(self._tasks), self._tasks, strict=True)
            )
            told.append(f"scores there {moved} (objective {gain:+.3f}, standard error {stderr:.3f})")
        without = [task.task for task in self._tasks if task.weight > 0 and task.task in self._teacher.without]
        if without:
            told.append(f"{', '.join(dict.fromkeys(without))} had no part in it")
        told.append(f"not kept, as {why}" if why else "kept")
        return "; ".join(told)
