"""The archive of a search for different skills: who is in it follows from the history alone.

(M2N2: Abrantes, Lange and Tang, Competition and Attraction Improve Model Fusion, 2508.16204, sections 3.2 and 3.3.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.random import Generator
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from evomerge.evaluators.types import Scores, TaskMetric, titles
from evomerge.search.constraints import total_violation
from evomerge.search.sampling import finished_trials
from evomerge.search.study import is_estimated, trial_objective

SOLVED = 0.5  # a normalised score from which a document counts as solved
FEW = 0.25  # of the other members

ScoresOf = Callable[[FrozenTrial], Scores]
_Key = tuple[str, str, str]
_Columns = dict[tuple[int, str], dict[_Key, float]]
_COLUMNS: weakref.WeakKeyDictionary[optuna.Study, _Columns] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Archive:
    """Members and what they get on documents.

    Attributes:
        members: trials, n in the order in which they were told.
        scores: [n x documents] in [0, 1], 1 is best; normalised over the members.
        shares: [documents] how much each document counts; they sum to 1. A task counts by its weight, whatever the
            number of its documents.
        owners: [documents] each one's task, as a place in the study's tasks.
        alpha: how strongly members compete.
    """

    members: tuple[FrozenTrial, ...]
    scores: NDArray[np.float64]
    shares: NDArray[np.float64]
    owners: NDArray[np.int64]
    alpha: float

    def niche_scores(self) -> NDArray[np.float64]:
        """S_mi / (sum over k of S_ki)^alpha, [n x documents]; 0 where nobody has anything."""
        crowd = self.scores.sum(axis=0)
        return np.where(crowd > 0, self.scores / np.where(crowd > 0, crowd, 1.0) ** self.alpha, 0.0)

    def fitness(self) -> NDArray[np.float64]:
        """Sum over documents of the niche scores, each times its share, [n] (section 3.2)."""
        return self.niche_scores() @ self.shares

    def weakest(self) -> int:
        """The place of the member that breaks its bounds most; of equal ones the least fit, then the latest."""
        broken = [total_violation(member.constraints) for member in self.members]
        ranks = zip(broken, -self.fitness(), (member.number for member in self.members), strict=True)
        return max(enumerate(ranks), key=lambda entry: entry[1])[0]

    def parents(self, rng: Generator) -> tuple[int, int]:
        """Places of two members.

        The first is drawn by fitness; the second, another where there is one, by attraction: the sum over documents
        of max(0, s2 - s1) of the niche scores (section 3.3), at random where nobody is better anywhere.
        """
        niche = self.niche_scores()
        first = _drawn(niche @ self.shares, rng)
        attraction = np.maximum(0.0, niche - niche[first]) @ self.shares
        others = np.arange(len(self.members)) != first
        if not attraction.any() and others.any():
            attraction = others.astype(np.float64)
        return first, _drawn(attraction, rng)


def replay_archive(
    study: optuna.Study, scores: ScoresOf, tasks: Sequence[TaskMetric], capacity: int, alpha: float
) -> Archive:
    """The archive after all trials that have been told.

    A trial that is scored on all documents enters; of more than `capacity` members the one that breaks its bounds most,
    then the least fit, leaves. An estimate cannot enter: the scores of a candidate that was stopped early say nothing
    on the documents where it might be the only one. Where every trial is an estimate, because the search looks at a
    sample of the documents, those scored on all that any trial was scored on enter.

    Args:
        study: with the history.
        scores: gives a trial's document scores.
        tasks: what is measured; those with a weight count.
        capacity: at most so many members.
        alpha: how strongly members compete for a document.
    """
    counted = [task for task in tasks if task.weight > 0]
    trials, rows, documents = _full_rows(study, scores, counted)
    shares, owners = _shares(documents, counted)
    kept: list[int] = []
    for place in range(len(trials)):
        kept.append(place)
        if len(kept) > capacity:
            archive = _archive([trials[each] for each in kept], rows[kept], shares, owners, alpha)
            kept.remove(kept[archive.weakest()])
    return _archive([trials[each] for each in kept], rows[kept], shares, owners, alpha)


def members(
    study: optuna.Study, scores: ScoresOf, tasks: Sequence[TaskMetric], capacity: int = 16, alpha: float = 1.0
) -> list[dict[str, Any]]:
    """What a report says of the members, the fittest first; arguments as of `replay_archive`.

    Returns:
        For each {number, fitness, objective, tasks: {task: mean of the normalised scores}, leads: {task: how many
        documents it solves that at most a quarter of the others do}}.
    """
    archive = replay_archive(study, scores, tasks, capacity, alpha)
    counted = [task for task in tasks if task.weight > 0]
    names = titles(counted)
    solved = archive.scores >= SOLVED
    others = (solved.sum(axis=0) - solved) / max(1, len(archive.members) - 1)
    leads = solved & (others <= FEW)
    fitness = archive.fitness()
    told = []
    for place in np.argsort(-fitness, kind="stable"):
        trial = archive.members[place]
        of_task = [archive.owners == index for index in range(len(counted))]
        told.append(
            {
                "number": trial.number,
                "fitness": float(fitness[place]),
                "objective": trial_objective(trial, tasks),
                "tasks": {n: float(archive.scores[place, own].mean()) for n, own in zip(names, of_task, strict=True)},
                "leads": {n: int(leads[place, own].sum()) for n, own in zip(names, of_task, strict=True)},
            }
        )
    return told


def _full_rows(
    study: optuna.Study, scores: ScoresOf, tasks: Sequence[TaskMetric]
) -> tuple[list[FrozenTrial], NDArray[np.float64], list[_Key]]:
    """The trials scored on every document, in the order of telling, their scores [n x documents], and the documents."""
    cache = _COLUMNS.setdefault(study, {})
    measured = repr([(task.task, task.label, task.sign) for task in tasks])
    complete = [trial for trial in finished_trials(study) if trial.state == TrialState.COMPLETE]
    for trial in complete:
        if (trial.number, measured) not in cache:
            cache[trial.number, measured] = _columns(scores(trial), tasks)
    held = {trial.number: cache[trial.number, measured] for trial in complete}
    exact = [trial for trial in complete if not is_estimated(trial)] or complete
    documents = max((held[trial.number].keys() for trial in exact), key=len, default=set[_Key]())
    full = [trial for trial in exact if held[trial.number].keys() >= documents] if documents else []
    order = sorted(documents)
    rows = [[held[trial.number][document] for document in order] for trial in full]
    return full, np.array(rows, dtype=np.float64).reshape(len(full), len(order)), order


def _columns(scores: Scores, tasks: Sequence[TaskMetric]) -> dict[_Key, float]:
    """The scores, higher is better, by (task, metric, document), of the documents that have a value."""
    return {
        (row.task, row.metric, row.document): task.sign * row.value
        for task in tasks
        for row in scores.rows(task)
        if not np.isnan(row.value)
    }


def _shares(documents: Sequence[_Key], tasks: Sequence[TaskMetric]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    place = {(task.task, task.label): index for index, task in enumerate(tasks)}
    owners = np.array([place[task, metric] for task, metric, _ in documents], dtype=np.int64)
    if not len(owners):
        return np.zeros(0), owners
    weights = np.array([task.weight for task in tasks])
    shares = weights[owners] / np.bincount(owners, minlength=len(tasks))[owners]
    return shares / shares.sum(), owners


def _archive(
    trials: Sequence[FrozenTrial],
    rows: NDArray[np.float64],
    shares: NDArray[np.float64],
    owners: NDArray[np.int64],
    alpha: float,
) -> Archive:
    return Archive(tuple(trials), _normalised(rows), shares, owners, alpha)


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each document's scores in [0, 1]: as they are where all are, else from its worst to its best in the rows."""
    if not rows.size or (rows.min() >= 0 and rows.max() <= 1):
        return rows
    low, high = rows.min(axis=0), rows.max(axis=0)
    outside = (low < 0) | (high > 1)
    width = np.where(high > low, high - low, 1.0)
    return np.where(outside, (rows - low) / width, rows)


def _drawn(weights: NDArray[np.float64], rng: Generator) -> int:
    """A place drawn with probabilities in proportion to weights; any one where all are 0."""
    total = weights.sum()
    return int(rng.choice(len(weights), p=weights / total if total > 0 else None))
