"""Parity with mergekit 0.1.5 in float32, to 1e-6. A method that mergekit lacks says so in NO_TWIN."""

from __future__ import annotations

import mergekit.sparsify
import pytest
import torch
from mergekit.merge_methods.api import merge_state_dicts, merge_tensors

from evomerge.engine import Merger
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.method import METHODS
from evomerge.engine.random_bits import random_bits, random_key
from tests.engine.test_conformance import NAMES, tensors
from tests.engine.tiny import PARAMETER, defaults, engine_merge, recipe

NO_TWIN: set[str] = set()
SEED = 4

CASES = {
    "linear": [{"weight": (0.2, 0.5, 0.9)}, {"weight": (0.2, -0.5, 0.9), "normalize": False}],
    "task_arithmetic": [{"weight": (0.2, 0.5, -0.3)}, {"weight": (0.2, 0.5, 0.3), "normalize": True, "lambda": 0.7}],
    "ties": [
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 1.0)},
        {"weight": (1.0, 1.0, 1.0), "density": (0.2, 0.2, 0.2), "normalize": False, "lambda": 0.4},
        {"weight": (0.6, -0.5, 0.9), "density": (0.9, 0.1, 0.77)},
    ],
    "dare_linear": [{"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 1.0), "normalize": True}],
    "dare_ties": [
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.9)},
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.9), "normalize": True, "lambda": 1.3},
    ],
    "slerp": [{"t": 0.0}, {"t": 0.3}, {"t": 1.0}],
}


@pytest.fixture
def our_masks(monkeypatch):
    """mergekit's Bernoulli draws, replaced in order by the engine's masks for the experts whose density is below 1."""

    def inject(densities):
        queue = [name for name, density in zip(NAMES, densities, strict=True) if density < 1]

        def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
            words = random_bits(random_key(SEED, queue.pop(0), PARAMETER), torch.arange(probabilities.numel()))
            cut = int(probabilities.double().reshape(-1)[0].item() * 2**32)
            return (words < cut).to(probabilities.dtype).reshape(probabilities.shape)

        monkeypatch.setattr(mergekit.sparsify.torch, "bernoulli", bernoulli)

    return inject


@pytest.mark.parametrize(("name", "given"), [(name, case) for name, cases in CASES.items() for case in cases])
@pytest.mark.parametrize("shape", [(64, 48), (257,)])
def test_tensors_equal_mergekit(name, given, shape, our_masks):
    given = {key: tuple(_float32(value)) if key == "density" else value for key, value in given.items()}
    method = METHODS.get(name)
    base, models = tensors(shape, seed=1, experts=method.max_experts or 3, spread=0.5)
    values = defaults(method, len(models), **{"rescale": "l1", **given})
    if method.random:
        our_masks(values["density"])
    theirs = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    if "rescale" in theirs:
        theirs["rescale"] = True
    inputs = list(models.values()) if name == "linear" else [base, *models.values()]
    want = merge_tensors(inputs, name, parameters=theirs, base_index=None if name == "linear" else 0)
    got = engine_merge(method, base, models, values, seed=SEED)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("linear", {"weight": 0.5}, {"weight": 0.5}),
        ("task_arithmetic", {"weight": 0.4}, {"weight": 0.4}),
        ("ties", {"weight": 0.8, "density": 0.4}, {"weight": 0.8, "density": 0.4}),
        ("slerp", {"t": 0.35}, {"t": 0.35}),
    ],
)
def test_whole_models_equal_mergekit(name, ours, theirs, zoo):
    refs = zoo[: 1 + (METHODS.get(name).max_experts or 3)]
    states = {ref.name: {key: open_checkpoint(ref).tensor(key) for key in open_checkpoint(ref).names()} for ref in refs}
    if name == "linear":
        want = merge_state_dicts({ref.name: states[ref.name] for ref in refs[1:]}, name, parameters=theirs)
    else:
        want = merge_state_dicts(states, name, parameters=theirs, base=refs[0].name)
    merger = Merger(refs[0], refs[1:], "float32", "cpu")
    merger.apply(recipe(refs, name, **ours))
    live = merger.model.state_dict()
    assert want
    for key, tensor in want.items():
        torch.testing.assert_close(live[key], tensor, rtol=1e-6, atol=1e-6)


def test_every_method_is_compared_or_says_why_not():
    assert set(METHODS.names()) == set(CASES) | NO_TWIN


def _float32(numbers):
    """Densities that float32 holds exactly, since mergekit hands them to its draw in the tensor's dtype."""
    return torch.tensor(numbers).double().tolist()
