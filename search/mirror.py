"""A study's trials as samplers see them: whole points, in a study in memory that may be written to.

Optuna's samplers note what they do in the study. They get a view of it instead, so that the database holds no state
of a sampler and a proposal depends on the history alone.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.sampling import ENQUEUED, PROPOSAL, finished_trials
from evomerge.search.study import ORIGIN


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have a point and no result yet, in order of their numbers."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if whole_point(trial)]


def is_warm_start(trial: FrozenTrial) -> bool:
    """Whether the trial was there before the sampler instead of proposed by it."""
    return ORIGIN in trial.user_attrs or ENQUEUED in trial.system_attrs


def whole_point(trial: FrozenTrial) -> dict[str, Any]:
    """The trial's point with every dimension that was proposed, also those that do not matter at it."""
    return {**trial.system_attrs.get(PROPOSAL, {}), **trial.params}


def with_whole_point(trial: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A copy of the trial whose parameters are its whole point, as far as `distributions` name them."""
    point = whole_point(trial)
    names = [name for name in distributions if name in point]
    other = copy.copy(trial)
    other.params = {name: point[name] for name in names}
    other.distributions = {name: distributions[name] for name in names}
    return other


class _View(InMemoryStorage):
    """Shows trials that are held elsewhere, and forgets what is noted of the one being proposed."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._shown = list(trials)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Nobody reads it: the next proposal has a view of its own."""


def view(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> optuna.Study:
    """A study that shows these trials as they are, without a copy of them.

    Args:
        trials: finished and running ones, in the order in which they are to be seen. Their numbers stay.
        directions: of the objectives.
    """
    storage = _View(trials)
    storage.create_new_study(list(directions), "view")
    return optuna.Study("view", storage, sampler=optuna.samplers.RandomSampler())


def mirror(study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> optuna.Study:
    """A view of the study's finished and running trials with their whole points, in order of their numbers."""
    trials = [*finished_trials(study), *running_trials(study)]
    shown = [with_whole_point(trial, distributions) for trial in sorted(trials, key=lambda trial: trial.number)]
    return view(shown, study.directions)
