"""Subsets that stand for all documents: how many, which, and how far they are to be trusted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.evaluators import Document, Scores, TaskMetric
from evomerge.evaluators.aggregation import Aggregation
from evomerge.search.estimate import estimates
from evomerge.search.factors import FactorModel
from evomerge.search.subset import choose_subset, informative_order
from tests.search.test_estimate import DOCUMENTS, SIZE, TASKS, candidates, scores


@pytest.fixture(scope="module")
def values() -> NDArray[np.float64]:
    return candidates(np.random.default_rng(11), 60)


@pytest.fixture(scope="module")
def full(values: NDArray[np.float64]) -> list[Scores]:
    return [scores(each) for each in values[:20]]


def later_error(documents: tuple[Document, ...], values: NDArray[np.float64], full: list[Scores]) -> float:
    """The root mean square error of the estimated mean over candidates that came after the choice."""
    errors = []
    for row in values[20:]:
        found = estimates(TASKS, full, scores(row).of(documents), DOCUMENTS)
        errors.append(np.mean([each.value for each in found]) - row.mean())
    return float(np.sqrt(np.mean(np.square(errors))))


def test_a_subset_has_the_size_asked_for_in_the_documents_order_and_is_the_same_again(full: list[Scores]) -> None:
    subset = choose_subset(TASKS, "mean", full, DOCUMENTS, 16)
    assert [sum(each.task == task.task for each in subset.documents) for task in TASKS] == [16, 16]
    assert list(subset.documents) == [document for document in DOCUMENTS if document in set(subset.documents)]
    assert choose_subset(TASKS, "mean", full, DOCUMENTS, 16) == subset
    assert subset.size == 16
    assert subset.tried == ((16, subset.error),)


def test_the_error_shown_is_what_later_candidates_have(values: NDArray[np.float64], full: list[Scores]) -> None:
    subset = choose_subset(TASKS, "mean", full, DOCUMENTS, 24)
    assert subset.error == pytest.approx(later_error(subset.documents, values, full), rel=0.5)


def test_chosen_documents_tell_more_than_others() -> None:
    generator = np.random.default_rng(2)
    ability, skill = generator.normal(0, 1, (60, 2, 3)), generator.integers(0, 3, (2, SIZE))
    difficulty = generator.normal(0, 1, (2, SIZE))
    values = np.take_along_axis(ability, np.broadcast_to(skill, (60, 2, SIZE)), axis=2) > difficulty
    values = values.astype(np.float64)
    full = [scores(each) for each in values[:20]]
    chosen = later_error(choose_subset(TASKS, "mean", full, DOCUMENTS, 12).documents, values, full)
    others = []
    for _ in range(10):
        places = set(generator.choice(SIZE, 12, replace=False).tolist())
        others.append(later_error(tuple(each for each in DOCUMENTS if each.index in places), values, full))
    assert chosen < 0.8 * np.mean(others)


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_auto_takes_the_fewest_documents_that_do(full: list[Scores], kind: str) -> None:
    subset = choose_subset(TASKS, kind, full, DOCUMENTS, "auto")  # type: ignore[arg-type]
    errors = dict(subset.tried)
    assert errors[subset.size] == subset.error <= subset.noise
    assert all(error > subset.noise for size, error in errors.items() if size < subset.size)
    assert 8 <= subset.size < SIZE
    assert errors[SIZE] == pytest.approx(0.0)
    assert errors[96] < errors[8]


def test_documents_all_alike_leave_nothing_to_choose(values: NDArray[np.float64]) -> None:
    constant = [scores(np.full_like(each, float(number % 2))) for number, each in enumerate(values[:10])]
    subset = choose_subset(TASKS, "mean", constant, DOCUMENTS, 8)
    assert len(subset.documents) == 16
    assert subset.noise == 0.0


def test_a_task_with_fewer_documents_is_taken_whole(full: list[Scores]) -> None:
    documents = [each for each in DOCUMENTS if each.task == "left" or each.index < 5]
    subset = choose_subset(TASKS, "mean", [each.of(documents) for each in full], documents, 8)
    assert [sum(each.task == task.task for each in subset.documents) for task in TASKS] == [8, 5]


def test_a_task_whose_number_is_no_mean_gives_its_first_documents() -> None:
    generator = np.random.default_rng(1)
    tasks = (TASKS[0], TaskMetric("right", "perplexity", higher_is_better=False, aggregation=Aggregation("r", np.exp)))
    values = generator.normal(1, 0.2, (9, 1, 1)) + generator.normal(0, 0.1, (9, 2, SIZE))
    full = [scores(each, tasks=tasks, item=lambda value: json.dumps([value, 1])) for each in values]
    subset = choose_subset(tasks, "mean", full, DOCUMENTS, 10)
    assert [each.index for each in subset.documents if each.task == "right"] == list(range(10))
    assert 0 < subset.error < 0.2


def test_the_order_is_greedy_for_the_posterior_variance() -> None:
    values = candidates(np.random.default_rng(5), 10)[:, 0, :12] / 0.5
    model = FactorModel(values, np.zeros(12, dtype=np.intp))
    order = informative_order(model, 12)
    assert sorted(order) == list(range(12))
    everything = [np.arange(12)]
    for step in range(11):
        known = list(order[:step])
        variances = {
            place: model.means(np.array([*known, place]), np.ones(step + 1), everything)[1][0]
            for place in range(12)
            if place not in known
        }
        assert variances[order[step]] == pytest.approx(min(variances.values()))


def test_what_cannot_be_chosen_from_is_an_error(full: list[Scores]) -> None:
    with pytest.raises(ValueError, match="from at least 8 candidates, but there are 7"):
        choose_subset(TASKS, "mean", full[:7], DOCUMENTS, "auto")
    with pytest.raises(ValueError, match="at least 8 documents of each task, but got 4"):
        choose_subset(TASKS, "mean", full, DOCUMENTS, 4)
