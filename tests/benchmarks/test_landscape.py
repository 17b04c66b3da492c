"""The landscape of benchmarks/: what its numbers have to do with the recordings, and how outcomes are drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

from cases import LandscapeCase, RecipeMerger  # noqa: E402
from landscape import DATA, HIGHEST, Landscape, load  # noqa: E402

from evomerge.evaluators.evaluator import score_split  # noqa: E402

LANDSCAPE = Landscape.load()
RECORDED = load([DATA / "quickstart.jsonl"])
WEIGHTS = arrays(float, LANDSCAPE.dimensions, elements=st.floats(0, HIGHEST))


def test_recorded_candidates_get_the_tasks_means_that_they_had() -> None:
    ends = np.cumsum(LANDSCAPE.sizes)[:-1]
    found = np.split(LANDSCAPE.probabilities(RECORDED.weights), ends, axis=1)
    recorded = np.split(RECORDED.solved, ends, axis=1)
    for task, (guess, truth) in enumerate(zip(found, recorded, strict=True)):
        errors = guess.mean(axis=1) - truth.mean(axis=1)
        assert np.sqrt(np.mean(errors**2)) < 0.08, LANDSCAPE.tasks[task]


def test_the_order_of_the_best_recorded_candidates_is_kept() -> None:
    total = RECORDED.solved.mean(axis=1)
    best = np.argsort(-total)[:100]
    assert spearmanr(total[best], LANDSCAPE.truth(RECORDED.weights[best])).statistic > 0.7


def test_nothing_in_the_box_is_far_above_the_best_recorded_candidate() -> None:
    draws = np.random.default_rng(0).uniform(0, HIGHEST, (2000, LANDSCAPE.dimensions))
    best = float(LANDSCAPE.truth(LANDSCAPE.best_weights)[0])
    assert LANDSCAPE.truth(draws).max() < best
    assert LANDSCAPE.truth(RECORDED.weights).max() <= best < RECORDED.solved.mean(axis=1).max() + 0.05


@given(WEIGHTS)
@settings(max_examples=30, deadline=None)
def test_outcomes_are_the_candidates_own_and_as_likely_as_stated(weights: np.ndarray) -> None:
    first = LANDSCAPE.outcomes(weights, "digest", 0)
    assert np.array_equal(first, LANDSCAPE.outcomes(weights, "digest", 0))
    expected = LANDSCAPE.probabilities(weights)[0]
    for other in (("another", 0), ("digest", 1)):
        assert not np.array_equal(first, LANDSCAPE.outcomes(weights, *other)) or expected.var() < 1e-6
    spread = np.sqrt(np.sum(expected * (1 - expected)))
    drawn = np.mean([LANDSCAPE.outcomes(weights, str(each), 0).sum() for each in range(20)])
    assert abs(drawn - expected.sum()) < 5 * spread / np.sqrt(20) + 1e-9


@pytest.mark.parametrize("layers", ["uniform", "per_layer", "dct"])
def test_the_weights_of_a_recipe_are_those_of_its_layers_and_modules(layers: str) -> None:
    space = LandscapeCase(0, [f"space.layers={layers}"]).problem.space
    constant, _ = space.constant("task_arithmetic", {"weight": {"reverse": 0.2, "add": 0.4, "facts": 0.6}})
    assert LANDSCAPE.weights_of(space.recipe(constant)) == pytest.approx(np.repeat([0.2, 0.4, 0.6], 9))


def test_a_recipe_per_layer_has_its_numbers_in_the_order_of_the_recordings() -> None:
    space = LandscapeCase(0, []).problem.space
    dimensions = space.dimensions("task_arithmetic")
    numbers = np.linspace(0.1, 1.2, len(dimensions)).round(4)
    recipe = space.recipe({each.name: float(number) for each, number in zip(dimensions, numbers, strict=True)})
    assert LANDSCAPE.weights_of(recipe) == pytest.approx(numbers)


def test_a_seeds_documents_are_split_in_shares_and_scored_as_the_landscape_says() -> None:
    case = LandscapeCase(3, [])
    evaluator, space = case.problem.evaluator, case.problem.space
    sizes = {split: len(evaluator.documents(split)) for split in ("search", "select", "report")}
    assert sizes == {"search": 480, "select": 240, "report": 480}
    keys = [each.key for split in sizes for each in evaluator.documents(split)]
    assert len(set(keys)) == LANDSCAPE.documents
    merger = RecipeMerger()
    point, _ = space.constant("task_arithmetic", {"weight": {"reverse": 0.8, "add": 0.8, "facts": 0.3}})
    recipe = space.recipe(point)
    merger.apply(recipe)
    outcomes = LANDSCAPE.outcomes(LANDSCAPE.weights_of(recipe), recipe.digest, 3)
    for score in score_split(evaluator, merger.model, "search").documents:
        assert score.value == float(outcomes[int(score.document)])
