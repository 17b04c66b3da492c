from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.registry import get_aggregation

from evomerge.evaluators import DocumentScore, Scores, TaskMetric
from evomerge.evaluators.aggregation import CORPUS_RESAMPLES, MEAN, Aggregation
from evomerge.evaluators.measuring import alone
from evomerge.evaluators.metrics import aggregation_of
from evomerge.evaluators.packing import pack

PAIRS = st.lists(st.tuples(st.floats(-50, 0), st.integers(1, 40)), min_size=2, max_size=12)
RATIOS = ["weighted_perplexity", "bits_per_byte"]


def packed(pairs: Sequence[tuple[float, float]]) -> tuple[np.ndarray, list[str | None]]:
    return np.zeros(len(pairs)), [pack(list(pair)) for pair in pairs]


@pytest.mark.parametrize("name", RATIOS)
@given(pairs=PAIRS)
def test_ratios_are_those_of_lm_eval(name: str, pairs: list[tuple[float, int]]) -> None:
    expected = get_aggregation(name)(pairs)
    assert aggregation_of(get_aggregation(name)).of(*packed(pairs)) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=12))
def test_perplexity_over_documents_is_that_of_lm_eval(likelihoods: list[float]) -> None:
    aggregation = aggregation_of(get_aggregation("perplexity"))
    expected = get_aggregation("perplexity")(likelihoods)
    assert aggregation.of(*packed([(each, 1.0) for each in likelihoods])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("function", ["mean", "nanmean"])
@given(values=st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=12))
def test_means_leave_out_documents_without_a_number(function: str, values: list[float]) -> None:
    assert aggregation_of(get_aggregation(function)) is MEAN
    expected = get_aggregation("nanmean")(values)
    assert MEAN.of(np.array(values), [None] * len(values)) == pytest.approx(expected, nan_ok=True, abs=1e-15)


@given(PAIRS, st.integers(0, 2**32 - 1))
def test_resamples_are_the_number_of_the_documents_drawn(pairs: list[tuple[float, int]], seed: int) -> None:
    counts = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=4)
    drawn = [[pair for pair, count in zip(pairs, row, strict=True) for _ in range(count)] for row in counts]
    for name in RATIOS:
        function = get_aggregation(name)
        for aggregation in (aggregation_of(function), Aggregation("corpus", corpus=function)):
            found = aggregation.resampled(*packed(pairs), counts.astype(float))
            np.testing.assert_allclose(found, [function(each) for each in drawn], rtol=1e-10)


@given(PAIRS)
def test_the_standard_error_is_the_jackknifes(pairs: list[tuple[float, int]]) -> None:
    n = len(pairs)
    ratio = aggregation_of(get_aggregation("bits_per_byte"))
    corpus = Aggregation("corpus", corpus=get_aggregation("bits_per_byte"))
    left_out = [get_aggregation("bits_per_byte")(pairs[:i] + pairs[i + 1 :]) for i in range(n)]
    expected = math.sqrt((n - 1) / n * sum((each - np.mean(left_out)) ** 2 for each in left_out))
    for aggregation in (ratio, corpus):
        assert aggregation.stderr(*packed(pairs)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_function_of_many_documents_is_called_a_bounded_number_of_times() -> None:
    calls = []

    def mean(items: Sequence[float]) -> float:
        calls.append(len(items))
        return float(np.mean(items))

    values = np.random.default_rng(0).normal(size=1000)
    items = [pack(value) for value in values]
    found = Aggregation("f", corpus=mean).stderr(values, items)
    assert len(calls) == CORPUS_RESAMPLES
    assert found == pytest.approx(MEAN.stderr(values, items), rel=0.15)


def test_documents_count_by_what_their_aggregation_needs() -> None:
    values, items = np.array([1.0, math.nan, 3.0]), [None, "2.0", "4.0"]
    assert MEAN.of(values, items) == 2.0
    assert Aggregation("sum", corpus=sum).of(values, items) == 6.0
    assert math.isnan(Aggregation("sum", corpus=sum).of(values, [None] * 3))
    assert math.isnan(Aggregation("sum", corpus=sum).stderr(values, [None, None, "1"]))


def test_a_document_alone_has_no_number_where_the_function_has_none() -> None:
    def spread(items: Sequence[float]) -> float:
        first, second, *_ = items
        return first - second

    assert math.isnan(alone(Aggregation("spread", corpus=spread), "1.0"))
    assert math.isnan(alone(aggregation_of(get_aggregation("perplexity")), "[-1e6,1]"))
    assert alone(aggregation_of(get_aggregation("perplexity")), "[0,1]") == 1.0


def test_a_function_that_prints_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def talks(items: Sequence[float]) -> float:
        print("a function that talks")
        return 0.0

    Aggregation("talks", corpus=talks).of(np.zeros(1), ["0"])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "a function that talks\n")


def test_scores_know_the_aggregation() -> None:
    metric = TaskMetric("text", "word_perplexity", aggregation=aggregation_of(get_aggregation("weighted_perplexity")))
    rows = [
        DocumentScore("text", key, "word_perplexity", 9.0, item) for key, item in (("a", "[-2,1]"), ("b", "[-4,5]"))
    ]
    found = Scores(tuple(rows)).task(metric)
    assert (found.mean, found.n) == (pytest.approx(math.e), 2)
    assert found.stderr == pytest.approx(math.sqrt(0.5 * 2 * ((math.exp(0.8) - math.exp(2)) / 2) ** 2))
