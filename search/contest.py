"""`search.compare: random`: what a random search of the same budget would have found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from sqlalchemy import Engine

from evomerge.engine.recipe import Recipe
from evomerge.search.interrupt import StopRequest
from evomerge.search.judge import Judge
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.selection import choose
from evomerge.search.study import MEASURED, complete_trials
from evomerge.search.trials import TrialLoop

RANDOM = "random"
_PROPOSALS = 1_000_000  # more than any budget pays for


@dataclass(frozen=True)
class Contestant:
    """The best of another search, which had the same budget.

    Attributes:
        name: of the baseline.
        recipe: its winner.
        trials: how many candidates it scored.
        documents: of `search`, that it scored them on.
    """

    name: str
    recipe: Recipe
    trials: int
    documents: int


def random_search(
    problem: Problem, study: optuna.Study, engine: Engine, scorer: Scorer, listener: Listener, stop: StopRequest
) -> Contestant | None:
    """Search the same space at random with as many documents of `search` as the study has spent; None: all failed.

    Candidates are proposed at random, without warm starts, judged by the same rules, and the winner is chosen by the
    same rule. The last candidate is finished where the budget ends within it. Trials and scores are those of a study of
    their own, "NAME/random" in the same database, which goes on where it was when it was stopped.

    Args:
        problem: of the search.
        study: of the search, which has ended.
        engine: the database.
        scorer: of the search: models that constraints refer to are not scored again. The live model is another one's
            afterwards: make a new scorer.
        listener: is told of documents, a step for each; not of the single trials.
        stop: may ask to stop.

    Raises:
        InputError: as `references.resolve_bounds`.
        InterruptedRunError: when somebody asked to stop; what is scored is kept.
    """
    own = _problem(problem)
    other = _study(study)
    ledger = Ledger(engine, other.study_name)
    stand_ins = {proxy.label for proxy in problem.evaluator.proxies.values()}
    budget = Ledger(engine, study.study_name).count("search", stand_ins)
    spent = ledger.count("search", stand_ins)
    listener.stage(RANDOM, budget, min(spent, budget))
    quiet = _Quiet(listener, budget - spent)
    bounds, bounds_of_both = (
        resolve_bounds(problem, scorer, *splits) for splits in (("search",), ("search", "select"))
    )
    other_scorer = Scorer(own, ledger, quiet, stop)
    judge = Judge(own, other, ledger, other_scorer, bounds, quiet)
    while spent < budget or _is_open(other):
        TrialLoop(own, other, judge, quiet, stop).run(_ended(other) + 1, None)
        spent = ledger.count("search", stand_ins)
        if spent == 0 and _ended(other) >= problem.config.search.trials:
            break  # none of as many candidates could be scored
    if not complete_trials(other):
        listener.note("random search: no candidate could be scored, and it is left out of the comparison")
        return None
    finalists = choose(own, other, other_scorer, quiet, bounds_of_both)
    if not finalists:
        return None
    return Contestant("random search", finalists[0].recipe, _ended(other), ledger.count("search", stand_ins))


def _problem(problem: Problem) -> Problem:
    section = problem.config.search
    changed: Mapping[str, Any] = {
        "sampler": RANDOM,
        "sampler_options": {},
        "trials": _PROPOSALS,
        "timeout": None,
        "seed": (section.seed + 1) % 2**31,  # a search at random must not be compared with itself
        "warm_start": (),
        "stop": None,
        "compare": (),
    }
    return replace(problem, config=problem.config.model_copy(update={"search": section.model_copy(update=changed)}))


def _study(study: optuna.Study) -> optuna.Study:
    other = optuna.create_study(
        storage=study._storage,
        study_name=f"{study.study_name}/{RANDOM}",
        directions=study.directions,
        load_if_exists=True,
    )
    if MEASURED in study.user_attrs:
        other.set_user_attr(MEASURED, study.user_attrs[MEASURED])
    return other


def _ended(study: optuna.Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _is_open(study: optuna.Study) -> bool:
    return any(not trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


class _Quiet(Listener):
    """Passes documents on, a step for each that the budget pays for."""

    def __init__(self, listener: Listener, budget: int) -> None:
        self._listener = listener
        self._left = budget

    def documents(self, scored: int) -> None:
        self._listener.documents(scored)
        for _ in range(min(scored, max(self._left, 0))):
            self._listener.step()
        self._left -= scored
