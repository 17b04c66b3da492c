from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric

ACC = TaskMetric("quiz", "acc")


def scores(**values: float) -> Scores:
    return Scores(tuple(DocumentScore("quiz", key, "acc", value) for key, value in values.items()))


def test_scores_of_two_models_pair_up_whatever_order_they_came_in() -> None:
    first, second = scores(b=1.0, a=0.0, c=0.5), scores(c=0.25, b=0.5, a=1.0)
    assert first.keys(ACC) == second.keys(ACC) == ("a", "b", "c")
    assert first.values(ACC).tolist() == [0.0, 1.0, 0.5]
    assert second.values(ACC).tolist() == [1.0, 0.5, 0.25]


def test_values_are_a_copy() -> None:
    found = scores(a=0.0)
    found.values(ACC)[0] = 9.0
    assert found.values(ACC).tolist() == [0.0]


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_mean_and_standard_error(values: list[float]) -> None:
    found = scores(**{f"d{place}": value for place, value in enumerate(values)}).task(ACC)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.stderr == pytest.approx(np.std(values, ddof=1) / len(values) ** 0.5, abs=1e-9)


def test_documents_without_a_score_count_for_nothing() -> None:
    found = scores(a=1.0, b=math.nan, c=0.0).task(ACC)
    assert (found.mean, found.n) == (0.5, 2)
    nothing = scores(a=math.nan).task(ACC)
    assert math.isnan(nothing.mean)
    assert nothing.n == 0


def test_one_document_has_no_standard_error() -> None:
    found = scores(a=1.0).task(ACC)
    assert found.mean == 1.0
    assert math.isnan(found.stderr)


def test_merging_adds_documents_and_keeps_those_that_agree() -> None:
    both = scores(a=1.0, b=math.nan) | scores(b=math.nan, c=0.0)
    assert both.keys(ACC) == ("a", "b", "c")


def test_merging_scores_that_disagree_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one score on a metric, but a of task 'quiz' has 1\.0 and 0\.0 on acc"):
        scores(a=1.0) | scores(a=0.0)


def test_restriction_to_documents_tells_tasks_apart() -> None:
    found = scores(a=1.0, b=0.0) | Scores((DocumentScore("other", "b", "acc", 0.5),))
    kept = found.of([Document("quiz", "b", 1, "select")])
    assert kept.documents == (DocumentScore("quiz", "b", "acc", 0.0),)


def test_labels_are_lm_evals_without_the_empty_filter() -> None:
    assert ACC.label == "acc"
    assert TaskMetric("quiz", "acc", "strict").label == "acc,strict"


def test_types_and_configuration_come_without_torch_and_lm_eval() -> None:
    code = (
        "import sys\n"
        "from evomerge.evaluators import EvaluateConfig, Scores\n"
        "from evomerge.evaluators.objective import objective\n"
        "from evomerge.evaluators.evaluator import evaluator\n"
        "sys.exit(', '.join({'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_facade_loads() -> None:
    import evomerge.evaluators as facade

    for name in facade.__all__:
        assert getattr(facade, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        facade.nothing  # noqa: B018
