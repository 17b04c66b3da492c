"""Steps down the loss of reference answers, in all coefficients of a space at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.engine.recipe import Recipe
from evomerge.engine.sensitivity import slopes_of
from evomerge.errors import CandidateError
from evomerge.evaluators import Document
from evomerge.evaluators.splits import position
from evomerge.search.interrupt import StopRequest
from evomerge.search.problem import Problem
from evomerge.search.scoring import Scorer
from evomerge.shortage import is_out_of_memory
from evomerge.spaces import Point

if TYPE_CHECKING:
    from evomerge.evaluators.teaching import Teacher

STEPS = 40
BATCH = 32  # documents a step, spread over the tasks
RATE = 0.015  # of a dimension's width a step
PULL = 0.2  # times the mean squared distance to the start, in widths
LOOK = 10  # steps between looks at the documents held back
PATIENCE = 2  # looks without a lower loss, after which no more steps are taken
HELD = 0.25  # of the documents of a task, held back
BACKWARD = 3  # documents that one counts as which is run backward
SOFTNESS = 0.1  # how far a task may be above the worst and still count e^-1 as much

FIRST_DECAY, SECOND_DECAY, TINY = 0.9, 0.999, 1e-8  # of Adam


@dataclass
class Progress:
    """Where the steps of one trial are, in plain numbers.

    Attributes:
        trial: the number of the trial that they are for.
        start: the number of the trial that they begin from.
        origin: its point.
        point: where they are.
        steps: how many were taken.
        means, squares: Adam's moving averages of the gradient and of its square, by dimension.
        losses: each task's mean loss on the documents held back, at each look; the first before any step.
        best: the place in `losses` of the look that was the best.
        best_point: where that was.
        documents: spent so far, one that is run backward counts as three.
        seconds: likewise.
        is_over: whether no more steps are to be taken.
    """

    trial: int
    start: int
    origin: Point
    point: Point
    steps: int = 0
    means: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    best_point: Point = field(default_factory=dict)
    documents: int = 0
    seconds: float = 0.0
    is_over: bool = False


class Descent:
    """Adam steps (Kingma and Ba 2015, algorithm 1) in the unit box, pulled back to where they began.

    Args:
        problem: with the live model and the space.
        scorer: merges into the live model.
        teacher: of the problem's evaluator.
        weights: of the tasks, at the losses of a look; they sum to 1.
        worth: of a look's losses: the lower, the better.
        documents: to learn from, by task.
        held: to look at, of the same tasks.
    """

    def __init__(
        self,
        problem: Problem,
        scorer: Scorer,
        teacher: Teacher,
        weights: Callable[[Sequence[Mapping[str, float]]], Mapping[str, float]],
        worth: Callable[[Sequence[Mapping[str, float]]], float],
        documents: Mapping[str, Sequence[Document]],
        held: Sequence[Document],
    ) -> None:
        self._space = problem.space
        self._merger = problem.merger
        self._seed = problem.config.search.seed
        self._scorer = scorer
        self._teacher = teacher
        self._weights = weights
        self._worth = worth
        self._documents = documents
        self._held = held
        self._each = math.ceil(BATCH / max(1, len(documents)))

    def run(self, progress: Progress, save: Callable[[Progress], None], stop: StopRequest) -> None:
        """Go on to the last step, or to where the documents held back gain nothing any more.

        Args:
            progress: changed in place.
            save: is called after each look.
            stop: is looked at between steps.

        Raises:
            InterruptedRunError: when somebody asked to stop; what was saved last is where the next run goes on.
        """
        while not progress.is_over:
            stop.check()
            began = time.perf_counter()
            due = progress.steps % LOOK == 0 and len(progress.losses) <= progress.steps // LOOK
            try:
                if due:
                    self._look(progress)
                else:
                    self._step(progress)
            except CandidateError:
                progress.is_over = True  # what was the best so far stands
            progress.seconds += time.perf_counter() - began
            if due or progress.is_over:
                save(progress)

    def _look(self, progress: Progress) -> None:
        self._merge(progress.point)
        losses = self._teacher.losses(self._merger.model, self._held)
        progress.documents += len(self._held)
        progress.losses.append(_means(self._held, losses))
        worths = [self._worth(progress.losses[: place + 1]) for place in range(len(progress.losses))]
        if not math.isfinite(worths[-1]):
            raise CandidateError("the loss of the reference answers is not finite")
        if len(worths) == 1 or worths[-1] < worths[progress.best]:
            progress.best, progress.best_point = len(worths) - 1, dict(progress.point)
        stalled = len(worths) - 1 - progress.best >= PATIENCE
        progress.is_over = progress.steps >= STEPS or stalled

    def _step(self, progress: Progress) -> None:
        recipe = self._merge(progress.point)
        batch = list(self._batch(progress))
        weights = self._weights(progress.losses)
        shares = [weights[document.task] / self._count(document.task) for document in batch]
        slopes = self._slopes(recipe, batch, shares)
        progress.documents += BACKWARD * len(batch)
        gradient = self._space.gradient(progress.point, slopes)
        progress.steps += 1
        widths = {d.name: d.high - d.low for d in self._space.active(progress.point)}
        for dimension in self._space.active(progress.point):
            name, width = dimension.name, widths[dimension.name]
            if name not in gradient:
                continue
            there = float(progress.point[name])
            pull = 2 * PULL * (there - float(progress.origin[name])) / width / len(gradient)
            move = RATE * width * _adam(progress, name, gradient[name] * width + pull)
            progress.point[name] = min(max(there - move, dimension.low), dimension.high)

    def _slopes(self, recipe: Recipe, batch: Sequence[Document], shares: Sequence[float]) -> list[dict[Any, float]]:
        """Of the batch's loss; once more in smaller pieces where memory runs out."""
        searched = {dimension.parameter for dimension in self._space.dimensions(recipe.method)}
        while True:
            try:
                with slopes_of(self._merger, recipe, searched) as slopes:
                    self._teacher.teach(self._merger.model, batch, shares)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                if not all(math.isfinite(slope) for found in slopes for slope in found.values()):
                    raise CandidateError("the gradient is not finite")
                return slopes
            self._teacher.shrink()

    def _merge(self, point: Point) -> Recipe:
        recipe = self._space.recipe(point)
        self._scorer.merge(recipe)
        return recipe

    def _count(self, task: str) -> int:
        return min(self._each, len(self._documents[task]))

    def _batch(self, progress: Progress) -> Iterator[Document]:
        """The step's documents of each task: the next of an order that is drawn anew whenever it is through."""
        for place, (task, documents) in enumerate(self._documents.items()):
            size = len(documents)
            for number in range(self._count(task) * progress.steps, self._count(task) * (progress.steps + 1)):
                order = np.random.default_rng([self._seed, progress.trial, place, number // size]).permutation(size)
                yield documents[order[number % size]]


def held_back(documents: Sequence[Document]) -> tuple[dict[str, list[Document]], list[Document]]:
    """A task's documents to learn from, by task, and those of all tasks to judge by.

    A hash of their content decides, so that copies stand together. Every task has at least one document to judge by.
    """
    learn: dict[str, list[Document]] = {}
    held: list[Document] = []
    for task in dict.fromkeys(document.task for document in documents):
        own = [document for document in documents if document.task == task]
        places = sorted(_place(document) for document in own)
        last = places[math.ceil(HELD * len(own)) - 1]
        held += [document for document in own if _place(document) <= last]
        learn[task] = [document for document in own if _place(document) > last]
    return learn, held


def mean_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1."""
    total = sum(weights.values())
    return {task: weight / total for task, weight in weights.items()}


def worst_weights(levels: Mapping[str, float]) -> dict[str, float]:
    """The gradient of a soft minimum of the tasks' levels: the lower, the more a task counts. They sum to 1."""
    lowest = min(levels.values())
    return mean_weights({task: math.exp((lowest - level) / SOFTNESS) for task, level in levels.items()})


def _place(document: Document) -> float:
    return position(document.key.partition("-")[0], "gradient")


def _means(documents: Sequence[Document], losses: Sequence[float]) -> dict[str, float]:
    of_task: dict[str, list[float]] = {}
    for document, loss in zip(documents, losses, strict=True):
        of_task.setdefault(document.task, []).append(loss)
    return {task: math.fsum(own) / len(own) for task, own in of_task.items()}


def _adam(progress: Progress, name: str, gradient: float) -> float:
    """The step of one dimension, in rates; `progress.steps` counts this one."""
    mean = progress.means[name] = FIRST_DECAY * progress.means.get(name, 0.0) + (1 - FIRST_DECAY) * gradient
    square = SECOND_DECAY * progress.squares.get(name, 0.0) + (1 - SECOND_DECAY) * gradient**2
    progress.squares[name] = square
    unbiased = mean / (1 - FIRST_DECAY**progress.steps)
    return unbiased / (math.sqrt(square / (1 - SECOND_DECAY**progress.steps)) + TINY)
