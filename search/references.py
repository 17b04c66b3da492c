"""The scores of the models that constraints refer to."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import Scores, Split
from evomerge.search.constraints import BASE, Bounds
from evomerge.search.problem import Problem, reference_recipes
from evomerge.search.scoring import Scorer


def resolve_bounds(problem: Problem, scorer: Scorer, *splits: Split) -> Bounds:
    """The problem's constraints on the documents of `splits` together.

    Raises:
        InputError: as `Bounds.resolve`, or a model that a constraint refers to cannot be scored.
        InterruptedRunError: when somebody asked to stop.
    """
    return Bounds.resolve(problem.config.evaluate, problem.evaluator.tasks, _score_of(problem, scorer, splits))


def _score_of(problem: Problem, scorer: Scorer, splits: tuple[Split, ...]) -> Callable[[str], Scores]:
    recipes = reference_recipes(problem.config)

    def score_of(name: str) -> Scores:
        label = name if name == BASE or f"expert {name}" not in recipes else f"expert {name}"
        scores = Scores()
        try:
            for split in splits:
                scores |= scorer.score(recipes[label], split, None)
        except CandidateError as error:
            raise InputError(f"a constraint must refer to a model that can be scored, but {name!r}: {error}") from error
        return scores

    return score_of
