"""How much of the winner's score is luck: against simulations in which the truth is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.evaluators.aggregation import Aggregation
from evomerge.evaluators.objective import Objective, objective
from evomerge.search.shrinkage import Rival, in_words, shrinkage

TASKS = (TaskMetric("left", "acc"), TaskMetric("right", "acc"))


def scores(values: np.ndarray, split: str = "s") -> Scores:
    return Scores(
        tuple(
            DocumentScore(task.task, f"{split}{place:04d}", "acc", float(value))
            for task, row in zip(TASKS, values, strict=True)
            for place, value in enumerate(row)
        )
    )


def drawn(generator: np.random.Generator, rates: np.ndarray, documents: int) -> list[np.ndarray]:
    """Each candidate's answers, with documents that are hard for all alike."""
    hard = generator.random((2, documents))
    own = generator.random((len(rates), 2, documents))
    return [(0.5 * hard + 0.5 * each < rate).astype(float) for each, rate in zip(own, rates, strict=True)]


@pytest.mark.parametrize(("candidates", "spread"), [(40, 0.0), (40, 0.05), (3, 0.02)])
def test_it_is_what_the_winner_loses_on_new_documents(candidates: int, spread: float) -> None:
    generator = np.random.default_rng(0)
    real, expected = [], []
    for seed in range(40):
        rates = 0.5 + spread * generator.standard_normal(candidates)
        bits = drawn(generator, rates, 80)
        means = [each.mean() for each in bits]
        winner = int(np.argmax(means))
        rivals = [Rival(scores(each)) for each in bits]
        found = shrinkage(TASKS, "mean", rivals[winner], rivals[:winner] + rivals[winner + 1 :], seed)
        assert found.chosen == pytest.approx(means[winner])
        real.append(means[winner] - drawn(generator, rates[[winner]], 10_000)[0].mean())
        expected.append(found.luck)
    assert np.mean(expected) == pytest.approx(np.mean(real), abs=0.4 * np.mean(real))


def test_the_interval_holds_the_score_on_new_documents() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for seed in range(60):
        rates = 0.5 + 0.05 * generator.standard_normal(20)
        bits = drawn(generator, rates, 80)
        winner = int(np.argmax([each.mean() for each in bits]))
        rivals = [Rival(scores(each)) for each in bits]
        found = shrinkage(TASKS, "mean", rivals[winner], rivals[:winner] + rivals[winner + 1 :], seed)
        truth = drawn(generator, rates[[winner]], 20_000)[0].mean()
        held += found.low <= truth <= found.high
        assert found.low <= found.expected <= found.high
    assert held >= 52


def test_who_wins_by_far_owes_nothing_to_luck() -> None:
    generator = np.random.default_rng(2)
    bits = drawn(generator, np.array([0.9, 0.3, 0.25, 0.2]), 100)
    winner, *others = (Rival(scores(each)) for each in bits)
    assert shrinkage(TASKS, "mean", winner, others, 0).luck < 0.003
    assert shrinkage(TASKS, "mean", winner, [], 0).luck < 0.003


def test_more_equal_rivals_mean_more_luck() -> None:
    generator = np.random.default_rng(3)
    bits = sorted(drawn(generator, np.full(64, 0.5), 60), key=lambda each: -each.mean())
    rivals = [Rival(scores(each)) for each in bits]
    few, many = (shrinkage(TASKS, "mean", rivals[0], rivals[1:count], 0).luck for count in (3, 64))
    assert 0 < few < many


def test_documents_of_select_make_luck_smaller() -> None:
    generator = np.random.default_rng(4)
    bits = sorted(drawn(generator, np.full(12, 0.5), 60), key=lambda each: -each.mean())
    alone = [Rival(scores(each)) for each in bits]
    more = drawn(generator, np.full(12, 0.5), 200)
    both = [
        Rival(rival.search, scores(values, "v") if place < 6 else None)
        for place, (rival, values) in enumerate(zip(alone, more, strict=True))
    ]
    pooled = [objective(each.search | each.select, TASKS) for each in both if each.select is not None]
    winner = int(np.argmax(pooled))
    found = shrinkage(TASKS, "mean", both[winner], both[:winner] + both[winner + 1 :], 0)
    assert found.chosen == pytest.approx(max(pooled))
    assert found.luck < shrinkage(TASKS, "mean", alone[0], alone[1:], 0).luck


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["mean", "worst", "pareto"]))
def test_the_order_of_rivals_does_not_matter(seed: int, kind: Objective) -> None:
    generator = np.random.default_rng(seed)
    bits = drawn(generator, np.full(6, 0.5), 30)
    rivals = [Rival(scores(each)) for each in bits]
    found = shrinkage(TASKS, kind, rivals[0], rivals[1:], seed)
    turned = shrinkage(TASKS, kind, rivals[0], rivals[:0:-1], seed)
    assert found.luck >= 0
    assert turned == pytest.approx(found)


def test_the_sign_of_a_metric_does_not_matter() -> None:
    generator = np.random.default_rng(5)
    bits = drawn(generator, np.full(10, 0.5), 50)
    lower = tuple(TaskMetric(task.task, "acc", higher_is_better=False) for task in TASKS)
    up, down = ([Rival(scores(values)) for values in side] for side in (bits, [1 - each for each in bits]))
    a, b = shrinkage(TASKS, "mean", up[0], up[1:], 0), shrinkage(lower, "mean", down[0], down[1:], 0)
    assert a.luck == pytest.approx(b.luck)
    assert a.chosen == pytest.approx(1 + b.chosen)


@pytest.mark.parametrize("form", ["ratio", "corpus"])
def test_a_number_that_is_no_mean_but_equals_one_shrinks_alike(form: str) -> None:
    generator = np.random.default_rng(6)
    bits = [each[:1] for each in drawn(generator, np.full(8, 0.5), 240)]
    plain = TaskMetric("left", "acc")
    aggregation = (
        Aggregation("ratio", link=lambda ratio: ratio)
        if form == "ratio"
        else Aggregation("corpus", corpus=lambda items: float(np.mean(items)))
    )
    other = TaskMetric("left", "acc", aggregation=aggregation)

    def rivals(item: Any) -> list[Rival]:
        return [
            Rival(Scores(tuple(DocumentScore("left", f"{p:04d}", "acc", v, item(v)) for p, v in enumerate(each[0]))))
            for each in bits
        ]

    means = rivals(lambda value: None)
    made = rivals(lambda value: json.dumps([value, 1.0]) if form == "ratio" else json.dumps(value))
    a, b = shrinkage([plain], "mean", means[0], means[1:], 0), shrinkage([other], "mean", made[0], made[1:], 0)
    assert b.chosen == pytest.approx(a.chosen)
    assert b.luck == pytest.approx(a.luck, rel=1e-9 if form == "ratio" else 0.5)


def test_candidates_on_other_documents_are_an_error() -> None:
    first, second = Rival(scores(np.ones((2, 4)))), Rival(scores(np.ones((2, 5))))
    with pytest.raises(ValueError, match="must be scored on the same documents of 'left'"):
        shrinkage(TASKS, "mean", first, [second], 0)


def test_the_sentence_says_score_expectation_and_luck() -> None:
    told = {"chosen": 0.644, "expected": 0.621, "shrinkage": 0.023, "interval": [0.58, 0.66]}
    result = {"split": "report", "winner": {"objective": 0.626}, "shrinkage": told}
    assert in_words(result) == (
        "The winner has 0.644 on the documents it was chosen by; 0.621 [0.580, 0.660] is expected on new documents "
        "(0.023 is luck of the choice); it has 0.626 on report."
    )
    assert "on report" not in in_words({**result, "split": "search"})
    assert in_words({"split": "report"}) == ""
