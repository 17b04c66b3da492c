"""The trials of a study as they end, whoever works on them."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import Engine

from evomerge.evaluators import TaskMetric
from evomerge.search import study as attributes
from evomerge.search.listener import Listener, TrialOutcome
from evomerge.search.patience import transact
from evomerge.search.sampling import finished_trials
from evomerge.search.study import is_estimated, trial_objective, trial_violation
from evomerge.search.trial_rows import count_finished


class Following:
    """Tells a listener of each trial that has ended since the last look, in the order of telling.

    Args:
        study: with the trials.
        engine: the database that holds it.
        tasks: what is measured.
        listener: is told of outcomes, and counts a step for each.
        counts_documents: whether it is told of a trial's documents, too, when it has ended.
    """

    def __init__(
        self,
        study: optuna.Study,
        engine: Engine,
        tasks: Sequence[TaskMetric],
        listener: Listener,
        counts_documents: bool = False,
    ) -> None:
        self._study = study
        self._engine = engine
        self._tasks = tasks
        self._listener = listener
        self._counts_documents = counts_documents
        self._seen = {trial.number for trial in finished_trials(study)}

    def look(self) -> int:
        """Tell of what is new. Returns how many trials have ended by now."""
        done = transact(self._engine, lambda connection: count_finished(connection, self._study._study_id))
        if done > len(self._seen):
            for trial in finished_trials(self._study):
                if trial.number not in self._seen:
                    self._seen.add(trial.number)
                    self._tell(outcome_of(trial, self._tasks))
        return done

    def _tell(self, outcome: TrialOutcome) -> None:
        if self._counts_documents:
            self._listener.documents(outcome.documents)
        self._listener.trial(outcome)
        self._listener.step()


def outcome_of(trial: FrozenTrial, tasks: Sequence[TaskMetric]) -> TrialOutcome:
    """What a finished trial says of itself.

    Args:
        trial: that has ended.
        tasks: what the study measures.
    """
    told = trial.user_attrs
    origin, reason = str(told.get(attributes.ORIGIN, "sampler")), str(told.get(attributes.REASON, ""))
    if not trial.values:
        return TrialOutcome(trial.number, origin, None, reason)
    return TrialOutcome(
        number=trial.number,
        origin=origin,
        objective=trial_objective(trial, tasks),
        reason=reason,
        tasks={task: row["value"] for task, row in told.get(attributes.TASKS, {}).items()},
        estimated=is_estimated(trial),
        documents=told.get(attributes.SCORED, (0, 0))[0],
        feasible=trial_violation(trial) == 0,
    )
