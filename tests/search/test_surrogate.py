"""The surrogate and its features: parity with scikit-like formulas by hand, and what it believes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.search.features import Features
from evomerge.search.stages import stages
from evomerge.search.surrogate import Surrogate
from evomerge.spaces import Dimension


def dimensions(experts: int = 2, modules: int = 2, layers: int = 8) -> list[Dimension]:
    found = []
    for expert in range(experts):
        for module in range(modules):
            for layer in range(layers):
                name = f"weight[{expert}] {module} {layer}"
                depth = (layer + 0.5) / layers
                found.append(Dimension(name, 0.0, 1.2, "weight", str(expert), str(module), layer, depth=depth))
        found.append(Dimension(f"weight[{expert}] outside", 0.0, 1.2, "weight", str(expert), "", 0))
    return found


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_features_are_a_rotation_of_each_group(experts: int, modules: int, layers: int) -> None:
    own = dimensions(experts, modules, layers)
    features = Features(own)
    size = modules * layers + 1
    assert features.matrix.shape == (len(own), len(own))
    assert np.allclose(features.matrix @ features.matrix.T * size, np.eye(len(own)), atol=1e-9)


def test_features_go_from_the_common_to_the_particular() -> None:
    own = dimensions()
    features = Features(own)
    everything = np.array([[0.3 if each.expert == "0" else 0.0 for each in own]])
    moved = features(everything)[0]
    assert np.isclose(np.abs(moved[features.level == 0]), 0.3).all()
    assert np.allclose(moved[features.level != 0], 0.0)
    one_module = np.array([[float(each.expert == "0" and each.modules == "0") for each in own]])
    assert np.allclose(features(one_module)[0][features.level >= 3], 0.0)  # nothing over depth, nothing in detail
    alternating = np.array([[float(each.column % 2) if each.modules == "0" else 0.0 for each in own]])
    assert np.abs(features(alternating)[0][features.level == features.levels - 1]).max() > 0.1


def test_stages_grow_and_end_with_every_number() -> None:
    own = dimensions(layers=30)
    found = stages(tuple(own))
    sizes = [stage.size for stage in found]
    assert sizes == sorted(set(sizes))
    assert [stage.name for stage in found] == [
        "one number per expert",
        "module groups",
        "blocks of layers",
        "cosines over depth",
        "every number",
    ]
    assert sizes == [2, 6, 14, 18, 122]
    assert [stage.is_global for stage in found] == [True, False, False, False, False]
    for coarse, fine in itertools.pairwise(found[:3]):  # nested, so that nothing is lost on the way
        solved = np.linalg.lstsq(fine.directions.T, coarse.directions.T, rcond=None)[0]
        assert np.allclose(fine.directions.T @ solved, coarse.directions.T)


@pytest.mark.parametrize("size", [1, 2])
def test_a_space_without_anything_coarser_has_one_stage(size: int) -> None:
    own = [Dimension(f"weight[{expert}]", 0.0, 1.0, "weight", str(expert), "all", 0) for expert in range(size)]
    (stage,) = stages(tuple(own))
    assert stage.is_global
    assert np.array_equal(stage.directions, np.eye(size))


def bowl(points: np.ndarray) -> np.ndarray:
    return np.asarray(0.6 - ((points - 0.55) ** 2).sum(axis=1))


def observed(count: int, size: int, seed: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    points = generator.random((count, size))
    return points, bowl(points) + noise * generator.standard_normal(count)


def test_the_gradient_of_its_loss_is_the_slope() -> None:
    points, values = observed(40, 6, 0, 0.02)
    surrogate = Surrogate(points, np.arange(6) % 3, values, np.linspace(0.0, 0.03, 40))
    hyper = surrogate.hyper + 0.2
    slope = surrogate._loss(hyper)[1]
    for place, step in enumerate(1e-5 * np.eye(len(hyper))):
        difference = surrogate._loss(hyper + step)[0] - surrogate._loss(hyper - step)[0]
        assert difference / 2e-5 == pytest.approx(slope[place], rel=1e-4, abs=1e-5)


def test_its_posterior_is_that_of_the_formula() -> None:
    """Equations 2.25 and 2.26 with a constant mean by least squares, written out."""
    points, values = observed(25, 3, 1, 0.02)
    errors = np.full(25, 0.05)
    surrogate = Surrogate(points, np.zeros(3, dtype=np.intp), values, errors)
    length, signal, rough = np.exp(surrogate.hyper)
    unit = values.std()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        distance = np.sqrt(5) * np.linalg.norm(a[:, None] - b[None], axis=2) / length
        return np.asarray(signal**2 * unit**2 * (1 + distance + distance**2 / 3) * np.exp(-distance))

    noise = (rough * unit) ** 2 + errors**2 + 1e-8 * unit**2
    inverse = np.linalg.inv(kernel(points, points) + np.diag(noise))
    mean = inverse.sum(axis=0) @ values / inverse.sum()
    new = np.random.default_rng(2).random((7, 3))
    cross = kernel(new, points)
    found = surrogate.posterior(new)
    assert found.mean == pytest.approx(mean + cross @ inverse @ (values - mean), abs=1e-9)
    variance = signal**2 * unit**2 - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    assert found.sd == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_it_learns_a_bowl_and_how_rough_it_is() -> None:
    points, values = observed(120, 4, 3, 0.03)
    surrogate = Surrogate(points, np.arange(4), values, np.zeros(120))
    new = np.random.default_rng(4).random((200, 4))
    found = surrogate.posterior(new)
    assert np.corrcoef(found.mean, bowl(new))[0, 1] > 0.97
    assert 0.015 < surrogate.roughness < 0.05
    assert (np.abs(found.mean - bowl(new)) < 3 * found.sd).mean() > 0.9


def test_a_lucky_score_is_not_believed() -> None:
    points, values = observed(80, 2, 5, 0.03)
    values[17] += 0.2
    surrogate = Surrogate(points, np.arange(2), values, np.zeros(80))
    believed = surrogate.posterior(points[17:18]).mean[0]
    assert abs(believed - bowl(points[17:18])[0]) < 0.07


def test_an_uncertain_estimate_moves_beliefs_less_than_a_full_score() -> None:
    points, values = observed(30, 2, 6)
    values[3] += 0.3
    moved = {}
    for error in (0.01, 0.3):
        errors = np.zeros(30)
        errors[3] = error
        moved[error] = Surrogate(points, np.arange(2), values, errors).posterior(points[3:4]).mean[0]
    assert abs(moved[0.3] - bowl(points[3:4])[0]) < abs(moved[0.01] - bowl(points[3:4])[0])


def test_a_pending_candidate_is_no_news_but_leaves_nothing_to_find() -> None:
    points, values = observed(30, 2, 7, 0.02)
    surrogate = Surrogate(points, np.arange(2), values, np.zeros(30))
    pending = np.array([[0.9, 0.1]])
    later = surrogate.with_pending(pending)
    assert later.posterior(pending).mean[0] == pytest.approx(surrogate.posterior(pending).mean[0], abs=0.01)
    assert later.posterior(pending).sd[0] < surrogate.posterior(pending).sd[0]
