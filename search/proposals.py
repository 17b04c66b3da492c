"""One proposal: a whole point for a trial that does not exist yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from evomerge.errors import InputError
from evomerge.evaluators import Scores
from evomerge.search.ledger import Ledger
from evomerge.search.problem import Problem
from evomerge.search.samplers.making import make_sampler
from evomerge.search.samplers.whole import completed, random_point
from evomerge.search.sampling import PROPOSAL, SamplerContext, distributions
from evomerge.search.scoring import Spent
from evomerge.search.study import DIGEST, NOTES, RECIPE, SECONDS
from evomerge.search.trial_rows import TrialContent
from evomerge.spaces import METHOD, Point, Space

DRAWS = 4  # proposals for one trial that are points of other trials, after which a random point is taken


@dataclass(frozen=True)
class Proposal:
    """A point, and what its sampler said about it.

    Attributes:
        point: a value for every dimension of its method.
        notes: lines on the decisions behind it.
        kept: user attributes for the trial.
    """

    point: Point
    notes: tuple[str, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)


class Proposer:
    """Asks a sampler, which it builds anew for each trial.

    Args:
        problem: with the space and the run's seed and options.
        study: with the trials before.
        name: of the sampler.
        ledger: with the document scores of the trials.
        trials: how many there will be in all.
    """

    def __init__(self, problem: Problem, study: optuna.Study, name: str, ledger: Ledger, trials: int) -> None:
        self._problem = problem
        self._space = problem.space
        self._study = study
        self._name = name
        self._ledger = ledger
        self._trials = trials
        self._distributions = distributions(problem.space)
        self._scores: dict[int, Scores] = {}

    def propose(self, number: int, trials: Sequence[FrozenTrial]) -> Proposal:
        """A point that none of the study's `trials` has, for the trial `number`.

        A sampler that comes upon points of other trials (one without random numbers does where two workers ask it at
        the same time) is asked again with other seeds, and after `DRAWS` times a random point is taken. Where that is
        known, too, as it may be in a space of few points, it is taken all the same: its scores are in the ledger.
        """
        known = [trial.params for trial in trials if trial.number != number and trial.params]
        for draw in range(DRAWS):
            proposal = self._draw(number, draw)
            if active_point(self._space, proposal.point) not in known:
                return proposal
        point = random_point(self._context(number, DRAWS, [], {}), self._study, _asking(number))
        return Proposal(point, (f"{self._name} proposed points of other trials {DRAWS} times: a random point",))

    def _draw(self, number: int, draw: int) -> Proposal:
        notes: list[str] = []
        kept: dict[str, Any] = {}
        context = self._context(number, draw, notes, kept)
        sampler, trial = make_sampler(self._name, context), _asking(number)
        searched = sampler.infer_relative_search_space(self._study, trial)
        point = sampler.sample_relative(self._study, trial, searched) if searched else {}
        return Proposal(completed(context, self._study, trial, point, sampler), tuple(notes), kept)

    def _context(self, number: int, draw: int, notes: list[str], kept: dict[str, Any]) -> SamplerContext:
        config = self._problem.config.search
        return SamplerContext(
            run_seed=config.seed,
            number=number,
            distributions=self._distributions,
            objectives=len(self._study.directions),
            options=config.sampler_options,
            space=self._space,
            tasks=tuple(self._problem.evaluator.tasks),
            trials=self._trials,
            scores=self._scores_of,
            explain=notes.append,
            keep=kept.__setitem__,
            draw=draw,
        )

    def _scores_of(self, trial: FrozenTrial) -> Scores:
        """The trial's document scores on `search`; those of a finished trial are read once."""
        if DIGEST not in trial.user_attrs:
            return Scores()
        if trial.number in self._scores:
            return self._scores[trial.number]
        scores = Scores(tuple(self._ledger.scores(str(trial.user_attrs[DIGEST]), "search")))
        if trial.state.is_finished():
            self._scores[trial.number] = scores
        return scores


def active_point(space: Space, point: Point) -> dict[str, Any]:
    """The entries of a point that its recipe depends on: a trial's parameters."""
    chosen = {METHOD: point[METHOD]} if METHOD in point else {}
    names = [dimension.name for dimension in space.active(point)]
    return chosen | {name: point[name] for name in names if name in point}


def _asking(number: int) -> FrozenTrial:
    return TrialContent().frozen(number, -1, TrialState.RUNNING)


def content_of(space: Space, proposal: Proposal, attributes: Mapping[str, Any], seconds: float = 0.0) -> TrialContent:
    """What a trial with a proposal holds.

    Args:
        space: that the point is of.
        proposal: the point and its notes.
        attributes: further user attributes.
        seconds: that proposing took.
    """
    known: dict[str, BaseDistribution] = distributions(space)
    params = active_point(space, proposal.point)
    told: dict[str, Any] = {SECONDS: asdict(Spent(sampler=seconds)), **attributes, **proposal.kept}
    if proposal.notes:
        told[NOTES] = list(proposal.notes)
    try:
        recipe = space.recipe(proposal.point)
    except InputError:  # the trial will fail by it, and say so
        pass
    else:
        told |= {RECIPE: recipe.model_dump_json(), DIGEST: recipe.digest}
    return TrialContent(params, {name: known[name] for name in params}, told, {PROPOSAL: proposal.point})
