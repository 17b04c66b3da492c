"""Which gains can be seen, and how lucky winners are."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.evaluators.types import TaskMetric
from evomerge.runs.doctor.power import DISAGREE, RATE, SPREAD, expected_maximum, power_of
from tests.runs.doctor.conftest import levels, look, subject

TASK = (TaskMetric("a", "acc"),)


@pytest.mark.parametrize(("documents", "candidates"), [(20, 35), (100, 100), (200, 200), (1000, 1000)])
def test_luck_and_loss_are_those_of_simulated_searches(documents: int, candidates: int) -> None:
    rng = np.random.default_rng(0)
    searches = 4000 if candidates < 500 else 800
    true = np.clip(rng.normal(RATE, SPREAD, (searches, candidates)), 0, 1)
    seen = rng.binomial(documents, true) / documents
    winner = seen.argmax(axis=1)[:, None]
    luck = np.take_along_axis(seen - true, winner, 1).mean()
    loss = (true.max(axis=1) - np.take_along_axis(true, winner, 1)[:, 0]).mean()
    power = power_of(TASK, {"a": 100}, {"a": documents}, candidates)
    assert power.luck == pytest.approx(luck, rel=0.15, abs=0.002)
    assert power.loss == pytest.approx(loss, rel=0.15, abs=0.002)


def test_the_stated_gain_is_seen_in_four_of_five_comparisons() -> None:
    documents = 400
    gain = power_of(TASK, {"a": documents}, {"a": 100}, 10).gain
    up, down = (DISAGREE + gain) / 2, (DISAGREE - gain) / 2
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(documents, [up, down, 1 - up - down], 20_000) / documents
    mean = drawn[:, 0] - drawn[:, 1]
    stderr = np.sqrt((drawn[:, 0] + drawn[:, 1] - mean**2) / documents)
    assert np.mean(mean > 1.96 * stderr) == pytest.approx(0.8, abs=0.03)


def test_weights_enter_the_standard_error() -> None:
    metrics = (TaskMetric("a", "acc", weight=3.0), TaskMetric("b", "acc", weight=1.0))
    power = power_of(metrics, {"a": 300, "b": 100}, {"a": 100, "b": 100}, 10)
    assert power.stderr == pytest.approx((DISAGREE * (0.75**2 / 300 + 0.25**2 / 100)) ** 0.5)
    enough = power_of(metrics, dict.fromkeys("ab", power.needed // 2 + 1), {"a": 100, "b": 100}, 10)
    assert enough.gain <= 0.0201


def test_more_documents_and_fewer_candidates_are_never_worse() -> None:
    few = power_of(TASK, {"a": 100}, {"a": 100}, 100)
    more = power_of(TASK, {"a": 200}, {"a": 200}, 100)
    fewer = power_of(TASK, {"a": 100}, {"a": 100}, 10)
    assert more.gain < few.gain
    assert more.luck < few.luck
    assert fewer.luck < few.luck


def test_the_expected_maximum_of_normal_numbers() -> None:
    rng = np.random.default_rng(2)
    for count in (2, 5, 30, 200):
        assert expected_maximum(count) == pytest.approx(rng.normal(size=(20_000, count)).max(axis=1).mean(), abs=0.03)
    assert expected_maximum(1) == 0


def test_few_documents_are_warned_of_and_enough_are_not() -> None:
    small = subject("evaluate.limit=60")
    assert levels(look("power", small)) == {"warning"}
    assert small.parts["power"]["tasks"]["quickstart_add"]["documents"] > 0
    assert small.parts["power"]["needed"] > 1000


def test_a_task_without_documents_in_report_is_told() -> None:
    found = subject("evaluate.splits={search: 1.0, select: 0.0, report: 0.0}")
    assert any("no documents in `report`" in finding.text for finding in look("power", found))
    assert found.parts["power"]["gain"] is None
