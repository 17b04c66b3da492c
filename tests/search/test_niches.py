"""The diversity archive: who is in it, what it covers, and the children of its members."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.search.archive import members, replay_archive
from evomerge.search.study import ESTIMATED
from tests.search.driver import Driver

LEFT, RIGHT = TaskMetric("left", "acc"), TaskMetric("right", "acc")
X = {"x": FloatDistribution(0.0, 1.0)}


def study_of(rows: list[list[float]], **attributes: Any) -> tuple[optuna.Study, Any]:
    """One trial a row; the first half of a row are the documents of `left`, the others of `right`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for row in rows:
        study.add_trial(create_trial(value=float(np.mean(row)), params={"x": 0.5}, distributions=X, **attributes))

    def scores(trial: Any) -> Scores:
        row = rows[trial.number]
        half = (len(row) + 1) // 2
        return Scores(
            tuple(
                DocumentScore("left" if place < half else "right", f"{place:02}", "acc", value)
                for place, value in enumerate(row)
            )
        )

    return study, scores


def numbers(study: optuna.Study, scores: Any, capacity: int, alpha: float) -> list[int]:
    found = replay_archive(study, scores, (LEFT, RIGHT), capacity, alpha)
    return [trial.number for trial in found.members]


def test_fitness_is_that_of_the_paper() -> None:
    """S = [[1, 1], [1, 0]], alpha 1: the first shares one document and has one of its own."""
    archive = replay_archive(*study_of([[1.0, 1.0], [1.0, 0.0]]), (LEFT, RIGHT), 2, 1.0)
    assert archive.fitness() == pytest.approx([(1 / 2 + 1) / 2, 1 / 4])


def test_a_specialist_stays_where_means_would_throw_it_out() -> None:
    rows = [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert 3 in numbers(*study_of(rows), capacity=3, alpha=1.0)
    assert numbers(*study_of(rows), capacity=3, alpha=0.0) == [0, 1, 2]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=9), st.integers(1, 4))
def test_without_competition_the_best_by_the_mean_stay(rows: list[list[float]], capacity: int) -> None:
    found = numbers(*study_of(rows), capacity=capacity, alpha=0.0)
    means = np.array([np.mean(row) for row in rows])
    assert len(found) == min(capacity, len(rows))
    assert sorted(means[found]) == pytest.approx(sorted(means)[-len(found) :])


def test_a_task_counts_by_its_weight_whatever_its_documents() -> None:
    """Two documents of the left task, one of the right, whose weight is twice as high."""
    study, scores = study_of([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    heavy = TaskMetric("right", "acc", weight=2.0)
    assert replay_archive(study, scores, (LEFT, RIGHT), 2, 0.0).fitness() == pytest.approx([1 / 2, 1 / 2])
    assert replay_archive(study, scores, (LEFT, heavy), 2, 0.0).fitness() == pytest.approx([1 / 3, 2 / 3])


def test_of_a_metric_that_falls_the_lowest_is_best() -> None:
    loss = TaskMetric("left", "acc", higher_is_better=False)
    study, scores = study_of([[3.0], [1.0], [2.0]])
    assert replay_archive(study, scores, (loss,), 3, 0.0).fitness() == pytest.approx([0.0, 1.0, 0.5])


def test_what_breaks_a_bound_leaves_first() -> None:
    rows = [[1.0, 1.0], [0.0, 0.5], [0.2, 0.2]]
    study, scores = study_of(rows)
    broken = create_trial(value=1.0, params={"x": 0.1}, distributions=X, constraints={"bound": 0.1})
    study.add_trial(broken)
    rows.append([1.0, 1.0])
    assert numbers(study, scores, capacity=3, alpha=1.0) == [0, 1, 2]


def test_estimates_enter_only_where_there_is_nothing_else() -> None:
    rows = [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    study, scores = study_of(rows, user_attrs={ESTIMATED: True})
    assert numbers(study, scores, 3, 1.0) == [0, 1, 2]
    study.add_trial(create_trial(value=0.5, params={"x": 0.1}, distributions=X))
    rows.append([0.5, 0.5])
    assert numbers(study, scores, 3, 1.0) == [3]


def test_of_trials_that_were_stopped_early_none_enters() -> None:
    rows = [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0]]
    assert numbers(*study_of(rows, user_attrs={ESTIMATED: True}), 3, 1.0) == [0]


def test_the_second_parent_is_good_where_the_first_is_not() -> None:
    rows = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    archive = replay_archive(*study_of(rows), (LEFT, RIGHT), 3, 1.0)
    rng = np.random.default_rng(0)
    pairs = [archive.parents(rng) for _ in range(60)]
    assert {first for first, _ in pairs} == {0, 1, 2}
    assert all((second == 2) if first < 2 else (second < 2) for first, second in pairs)


def test_where_nobody_is_attractive_or_fit_parents_are_any_two() -> None:
    archive = replay_archive(*study_of([[0.0, 0.0]] * 3), (LEFT, RIGHT), 3, 1.0)
    rng = np.random.default_rng(0)
    pairs = {archive.parents(rng) for _ in range(60)}
    assert pairs == {(one, two) for one in range(3) for two in range(3) if one != two}
    alone = replay_archive(*study_of([[0.0, 1.0]]), (LEFT, RIGHT), 3, 1.0)
    assert alone.parents(rng) == (0, 0)


def test_a_report_says_what_each_member_leads_in() -> None:
    rows = [[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    told = members(*study_of(rows), (LEFT, RIGHT), capacity=3)
    assert [member["number"] for member in told] == [2, 0, 1]
    assert told[0]["leads"] == {"left": 0, "right": 2}
    assert told[1]["leads"] == {"left": 1, "right": 0}
    assert told[1]["tasks"] == {"left": 1.0, "right": 0.0}
    assert told[1]["objective"] == 0.5


def test_its_members_cover_two_skills_that_conflict_and_the_best_by_one_objective_do_not() -> None:
    """The objective is the first task's alone; the documents know of the second."""

    def best_in_second(sampler: str) -> float:
        driver = Driver(sampler, failing=0)
        trials = driver.run(60)
        late = [driver.scores(trial).documents for trial in trials[30:]]
        return max(sum(score.value for score in scores if score.task == "second") for scores in late)

    assert best_in_second("niches") > best_in_second("nsga2") + 1


def test_without_competition_children_get_better() -> None:
    driver = Driver("niches", failing=0, options={"alpha": 0.0, "capacity": 8})
    solved = [sum(score.value for score in driver.scores(trial).documents) for trial in driver.run(60)]
    assert np.mean(solved[40:]) > np.mean(solved[3:11]) + 1
