"""Bounds: which scores keep them, and when a candidate that has not been scored to its end can be given up."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.evaluators.aggregation import Aggregation
from evomerge.evaluators.config import EvaluateConfig
from evomerge.search.constraints import Bounds, check_references, total_violation
from evomerge.search.spending import nominal_levels

ACC = TaskMetric("quiz", "acc")
BIAS = TaskMetric("bias", "acc", weight=0.0)
LOSS = TaskMetric("text", "loss", higher_is_better=False, weight=0.0)
TASKS = (ACC, BIAS, LOSS)


def rows(task: TaskMetric, values: Any) -> tuple[DocumentScore, ...]:
    return tuple(DocumentScore(task.task, f"{i:04d}", task.label, float(v)) for i, v in enumerate(values))


def scores(quiz: Any = (1, 0), bias: Any = (1, 0), text: Any = (2.0, 4.0)) -> Scores:
    return Scores(rows(ACC, quiz) + rows(BIAS, bias) + rows(LOSS, text))


def config(*constraints: dict[str, Any]) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"tasks": ["quiz"], "constraints": constraints})


def bounds(*constraints: dict[str, Any], base: Scores | None = None, tasks: Any = TASKS) -> Bounds:
    return Bounds.resolve(config(*constraints), tasks, lambda name: base or scores())


def violation(constraint: dict[str, Any], candidate: Scores, base: Scores | None = None) -> float:
    (found,) = bounds(constraint, base=base).violations(candidate).values()
    return found


@pytest.mark.parametrize(
    ("constraint", "name", "violated_by"),
    [
        ({"task": "quiz", "at_least": 0.75}, "quiz acc >= 0.75", 0.25),
        ({"task": "quiz", "at_least": 0.75, "margin": 0.25}, "quiz acc >= 0.75 - 0.25", 0.0),
        ({"task": "quiz", "at_most": 0.25}, "quiz acc <= 0.25", 0.25),
        ({"task": "quiz", "at_least": "base"}, "quiz acc >= base", 0.0),
        ({"task": "text", "at_least": 3.5}, "text loss >= 3.5", 0.5),  # a number is a floor whatever the direction
        ({"task": "text", "at_most": 2.5}, "text loss <= 2.5", 0.5),
        ({"task": "text", "at_most": 2.5, "margin": 0.5}, "text loss <= 2.5 + 0.5", 0.0),
        ({"task": "text", "at_least": "base"}, "text loss <= base", 0.0),  # as good as the base: no higher a loss
    ],
)
def test_what_a_constraint_means(constraint: dict[str, Any], name: str, violated_by: float) -> None:
    found = bounds(constraint).violations(scores())
    assert found == {name: pytest.approx(violated_by)}


def test_a_reference_bounds_in_the_metric_s_own_direction() -> None:
    better, worse = scores(quiz=(1, 1), text=(1.0, 1.0)), scores(quiz=(0, 0), text=(9.0, 9.0))
    for task, gain in (("quiz", 0.5), ("text", 2.0)):
        assert violation({"task": task, "at_least": "base"}, better) == pytest.approx(-gain)
        assert violation({"task": task, "at_least": "base"}, worse) > 0
    assert violation({"task": "text", "at_least": "base", "margin": 6.0}, worse) == 0.0


def test_rounding_breaks_no_bound() -> None:
    base, candidate = scores(quiz=[1] * 8 + [0] * 2), scores(quiz=[1] * 7 + [0] * 3)
    assert base.task(ACC).mean - 0.1 > candidate.task(ACC).mean
    assert violation({"task": "quiz", "at_least": "base", "margin": 0.1}, candidate, base) == 0.0
    assert violation({"task": "quiz", "at_least": 0.7001}, candidate) > 0


def test_a_reference_is_asked_for_once_and_only_where_it_is_named() -> None:
    asked: list[str] = []

    def score_of(name: str) -> Scores:
        asked.append(name)
        return scores()

    named = config(
        {"task": "quiz", "at_least": "base"},
        {"task": "bias", "at_least": "base", "margin": 0.1},
        {"task": "bias", "at_least": 0.1},
        {"task": "bias", "at_least": "lang"},
    )
    assert len(Bounds.resolve(named, TASKS, score_of)) == 4
    assert asked == ["base", "lang"]
    assert len(Bounds.resolve(config(), TASKS, score_of)) == 0
    assert asked == ["base", "lang"]


def test_on_a_part_of_the_documents_the_reference_counts_on_the_same_part() -> None:
    base = scores(quiz=(1, 1, 0, 0))
    found = bounds({"task": "quiz", "at_least": "base"}, base=base)
    assert found.violations(scores(quiz=(1, 1))) == {"quiz acc >= base": 0.0}
    assert found.violations(scores(quiz=(1, 0))) == {"quiz acc >= base": 0.5}
    assert found.verdicts(scores(quiz=(1, 0, 0, 0)))["quiz acc >= base"] == {
        "bound": 0.5,
        "value": 0.25,
        "reference": "base",
        "margin": 0.0,
        "kept": False,
        "violation": 0.25,
    }
    with pytest.raises(ValueError, match="base must be scored on each document"):
        found.violations(scores(quiz=(1,) * 5))


def test_the_metric_and_filter_decide_between_several() -> None:
    strict = TaskMetric("quiz", "exact_match", "strict")
    tasks = (ACC, strict, TaskMetric("quiz", "exact_match", "flexible"))
    (bound,) = bounds({"task": "quiz", "metric": "exact_match,strict", "at_least": 0.5}, tasks=tasks)
    assert bound.task is strict
    for metric in ({}, {"metric": "exact_match"}, {"metric": "f1"}):
        with pytest.raises(InputError, match=r"must be one of acc, exact_match,strict, exact_match,flexible, but got"):
            bounds({"task": "quiz", "at_least": 0.5, **metric}, tasks=tasks)


def test_what_cannot_be_bounded_is_told() -> None:
    with pytest.raises(InputError, match="got 'biass'; did you mean 'bias'"):
        bounds({"task": "biass", "at_least": 0.5})
    with pytest.raises(InputError, match=r"'quiz acc >= 0\.5' is there twice"):
        bounds({"task": "quiz", "at_least": 0.5}, {"task": "quiz", "at_least": 0.5})
    with pytest.raises(InputError, match="base has none on 'quiz'"):
        bounds({"task": "quiz", "at_least": "base"}, base=scores(quiz=(math.nan,)))
    with pytest.raises(CandidateError, match=r"'quiz' has none \(quiz acc >= 0.5\)"):
        bounds({"task": "quiz", "at_least": 0.5}).violations(scores(quiz=()))


def test_references_are_checked_by_name_alone() -> None:
    check_references(config({"task": "quiz", "at_least": "lang"}, {"task": "bias", "at_least": 0.5}), ["math", "lang"])
    with pytest.raises(InputError, match="constraint on 'quiz' must be one of base, lang, math, but got 'mth'"):
        check_references(config({"task": "quiz", "at_least": "mth"}), ["math", "lang"])


def test_the_total_counts_what_is_broken() -> None:
    assert total_violation({"a": 0.5, "b": -3.0, "c": 0.25, "d": 0.0}) == 0.75
    assert total_violation({}) == 0.0


ERROR = 0.05


def lost(candidate: Any, base: Any, seen: int, constraint: dict[str, Any], error: float = ERROR) -> bool:
    found = bounds(constraint, base=scores(quiz=base))
    return found.violated_for_sure(scores(quiz=candidate[:seen]), {"quiz": len(candidate)}, error)


@pytest.mark.parametrize("kept_by", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seen", [12, 60, 150])
@pytest.mark.parametrize("reference", [True, False])
def test_a_candidate_at_its_bound_is_given_up_no_more_often_than_stated(
    kept_by: float, seen: int, reference: bool
) -> None:
    chance = np.random.default_rng(int(kept_by * 100) + seen)
    solved = np.arange(200) < kept_by * 200
    count = 0
    for _ in range(300):
        candidate, base = chance.permutation(solved), chance.permutation(solved)
        at_least: dict[str, Any] = {"at_least": "base"} if reference else {"at_least": kept_by}
        count += lost(candidate, base, seen, {"task": "quiz", **at_least})
    assert count / 300 <= ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / 300)


@pytest.mark.parametrize("kept_by", [0.3, 0.8])
def test_the_levels_of_a_race_hold_for_all_its_looks_together(kept_by: float) -> None:
    chance = np.random.default_rng(3)
    solved = np.arange(240) < kept_by * 240
    looks = (8, 16, 32, 48, 80, 112, 176)
    levels = nominal_levels(0.1, [look / 240 for look in looks])
    count = 0
    for _ in range(200):
        candidate, base = chance.permutation(solved), chance.permutation(solved)
        found = bounds({"task": "quiz", "at_least": "base"}, base=scores(quiz=base))
        count += any(
            found.violated_for_sure(scores(quiz=candidate[:look]), {"quiz": 240}, level)
            for look, level in zip(looks, levels, strict=True)
        )
    assert count / 200 <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 200)


def test_a_candidate_far_from_its_bound_is_given_up_early() -> None:
    chance = np.random.default_rng(0)
    count = 0
    for _ in range(100):
        base = chance.random(200) < 0.8
        candidate = base & (chance.random(200) < 0.6)
        count += lost(candidate, base, 50, {"task": "quiz", "at_least": "base"})
    assert count >= 95


def test_pairs_tell_more_than_the_reference_s_mean() -> None:
    chance = np.random.default_rng(1)
    paired = alone = 0
    for _ in range(100):
        base = chance.random(300) < 0.5
        candidate = base & (chance.random(300) < 0.8)
        paired += lost(candidate, base, 60, {"task": "quiz", "at_least": "base"})
        alone += lost(candidate, base, 60, {"task": "quiz", "at_least": float(base.mean())})
    assert paired > alone + 20


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0, 1))
def test_with_all_documents_seen_the_bound_itself_decides(solved: list[bool], floor: float) -> None:
    found = bounds({"task": "quiz", "at_least": floor})
    candidate = scores(quiz=solved)
    broken = next(iter(found.violations(candidate).values())) > 0
    assert found.violated_for_sure(candidate, {"quiz": len(solved)}, 0.01) == broken


def test_a_few_documents_prove_nothing() -> None:
    assert not lost(np.zeros(100), np.ones(100), 7, {"task": "quiz", "at_least": "base"})
    assert lost(np.zeros(100), np.ones(100), 20, {"task": "quiz", "at_least": "base"})


def test_a_margin_keeps_a_candidate_in() -> None:
    base, candidate = np.ones(100), np.tile([1.0, 1.0, 1.0, 0.0], 25)
    assert lost(candidate, base, 60, {"task": "quiz", "at_least": "base"})
    assert not lost(candidate, base, 60, {"task": "quiz", "at_least": "base", "margin": 0.2})


def test_the_error_is_shared_by_all_bounds() -> None:
    base, candidate = np.ones(100), np.tile([1.0] * 5 + [0.0], 17)[:100]
    found = [{"task": "quiz", "at_least": "base", "margin": 0.01}]
    at = next(e for e in np.geomspace(1e-4, 0.4, 200) if lost(candidate, base, 30, found[0], float(e)))
    more = bounds(*found, *[{"task": "bias", "at_least": -1.0 - i} for i in range(9)], base=scores(quiz=base))
    seen = scores(quiz=candidate[:30], bias=[1.0] * 30)
    totals = {"quiz": 100, "bias": 100}
    assert not more.violated_for_sure(seen, totals, float(at))
    assert more.violated_for_sure(seen, totals, float(min(10 * at, 0.49)))


def items(pairs: Any) -> tuple[DocumentScore, ...]:
    return tuple(
        DocumentScore("text", f"{i:04d}", "ppl", a / b, json.dumps([float(a), float(b)]))
        for i, (a, b) in enumerate(pairs)
    )


def test_ratios_are_tested_by_their_documents_shares_and_corpus_metrics_at_the_end() -> None:
    chance = np.random.default_rng(2)
    pairs = [(3.0 + chance.normal(), 1.0) for _ in range(40)]
    base = [(a - 1.0, b) for a, b in pairs]
    ratio = TaskMetric("text", "ppl", higher_is_better=False, aggregation=Aggregation("ratio", link=np.exp))
    corpus = TaskMetric("text", "ppl", higher_is_better=False, aggregation=Aggregation("f", corpus=len))
    constraint = {"task": "text", "metric": "ppl", "at_least": "base"}
    for task, given_up in ((ratio, True), (corpus, False)):
        found = bounds(constraint, base=Scores(items(base)), tasks=(task,))
        assert found.violated_for_sure(Scores(items(pairs[:20])), {"text": 40}, ERROR) == given_up
    found = bounds(constraint, base=Scores(items(pairs)), tasks=(ratio,))
    assert not found.violated_for_sure(Scores(items(base[:20])), {"text": 40}, ERROR)
    assert not found.violated_for_sure(Scores(items(pairs[:20])), {"text": 40}, ERROR)
