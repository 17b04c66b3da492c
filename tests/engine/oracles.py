"""mergekit 0.1.5 as an oracle: the cases in which it means what the engine does, and how it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import mergekit.sparsify
import torch
from mergekit.merge_methods.api import merge_tensors

from evomerge.engine.della import critical_densities, survives
from evomerge.engine.method import METHODS
from evomerge.engine.plan import EVERY
from evomerge.engine.random_bits import Keys, random_key
from evomerge.engine.statistics import words
from tests.engine.tiny import PARAMETER, defaults

NO_TWIN = {"consensus", "pcb"}
"""Methods that mergekit lacks."""

SEED = 4
WITHOUT_BASE = {"linear", "karcher", "passthrough"}

CASES: dict[str, list[dict[str, Any]]] = {
    "arcee_fusion": [{"spread": 2.0}],
    "breadcrumbs": [
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 1.0), "gamma": (0.01, 0.2, 0.1)},
        {"weight": (0.2, 0.5, 0.9), "density": (0.9, 0.95, 0.0), "gamma": (0.3, 0.0, 0.1), "normalize": True},
    ],
    "breadcrumbs_ties": [{"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.7), "gamma": (0.01, 0.2, 0.1)}],
    "dare_linear": [{"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 1.0), "normalize": True}],
    "dare_ties": [
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.9)},
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.9), "normalize": True, "lambda": 1.3},
    ],
    "della": [{"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.8), "epsilon": (0.1, 0.2, 0.15)}],
    "della_linear": [
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 0.8), "epsilon": (0.1, 0.2, 0.15), "normalize": True}
    ],
    "karcher": [{}, {"spread": 3.0}],
    "linear": [{"weight": (0.2, 0.5, 0.9)}, {"weight": (0.2, -0.5, 0.9), "normalize": False}],
    "model_stock": [{}, {"filter_wise": True}],
    "multislerp": [
        {"weight": (0.2, 0.5, 0.9)},
        {"weight": (0.2, 0.5, 0.9), "normalize": False},
        {"weight": (0.2, 0.5, 0.9), "task_vectors": False},
    ],
    "nearswap": [{"t": 0.3}, {"t": 0.01}],
    "nuslerp": [
        {"weight": (0.3, 0.9)},
        {"weight": (0.3, 0.9), "row_wise": True},
        {"weight": (0.3, 0.9), "task_vectors": False},
        {"weight": (1.0, -1.0)},
    ],
    "passthrough": [{"scale": 1.0}, {"scale": -0.3}],
    "ram": [{}, {"epsilon": 0.3}],
    "sce": [{}, {"select_topk": 0.3}],
    "slerp": [{"t": 0.0}, {"t": 0.3}, {"t": 1.0}],
    "task_arithmetic": [{"weight": (0.2, 0.5, -0.3)}, {"weight": (0.2, 0.5, 0.3), "normalize": True, "lambda": 0.7}],
    "ties": [
        {"weight": (0.2, 0.5, 0.9), "density": (0.3, 0.5, 1.0)},
        {"weight": (1.0, 1.0, 1.0), "density": (0.2, 0.2, 0.2), "normalize": False, "lambda": 0.4},
        {"weight": (0.6, -0.5, 0.9), "density": (0.9, 0.1, 0.77)},
    ],
}
"""Numbers by our names; "spread" is how far the experts are from the base."""


def values_in(name: str, case: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """Our values for a case. Densities are float32, since mergekit hands them to its draw in the tensor's dtype."""
    given = {"rescale": "l1", **case}
    if "density" in given:
        given["density"] = tuple(torch.tensor(given["density"]).double().tolist())
    return defaults(METHODS.get(name), experts, **given)


def mergekit_merge(
    name: str, base: torch.Tensor, experts: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> torch.Tensor:
    """The same merge by mergekit, with the engine's random masks in place of its own."""
    based = name not in WITHOUT_BASE and values.get("task_vectors", True)
    inputs = [base, *experts.values()] if based else list(experts.values())
    with our_masks(base, experts, values):
        return merge_tensors(inputs, name, parameters=_parameters(name, values), base_index=0 if based else None)


def _parameters(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    given.pop("task_vectors", None)
    if "rescale" in given:
        given["rescale"] = given["rescale"] == "l1"
    if name == "nuslerp":
        given["nuslerp_flatten"] = not given.pop("row_wise")
    if name == "multislerp":
        given["normalize_weights"] = given.pop("normalize")
    if name in ("sce", "ram"):
        assert given.pop("lambda") == 1.0
    if name == "karcher":
        assert set(given.pop("weight")) == {1.0}
        given |= {"max_iter": 50, "tol": 1e-7}
    return given


@contextmanager
def our_masks(base: torch.Tensor, experts: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> Iterator[None]:
    """mergekit's Bernoulli draws, replaced in order by the engine's masks for the experts whose density is below 1."""
    queue = [i for i, density in enumerate(values.get("density", ())) if density < 1]

    def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
        i = queue.pop(0)
        mask = _mask(base, list(experts.items())[i], values["density"][i], values.get("epsilon", (None,) * 9)[i])
        return mask.to(probabilities.dtype).reshape(probabilities.shape)

    with mock.patch.object(mergekit.sparsify.torch, "bernoulli", bernoulli):
        yield


def _mask(base: torch.Tensor, expert: tuple[str, torch.Tensor], density: float, epsilon: float | None) -> torch.Tensor:
    name, tensor = expert
    keys = Keys(random_key(SEED, "", PARAMETER), (random_key(SEED, name, PARAMETER),))
    word = words(keys, 0, base.view(-1))
    if epsilon is None:
        return word < int(density * EVERY)
    critical = critical_densities((tensor - base).view(-1), base.shape[-1], word, epsilon)
    return survives(critical, torch.tensor(density))
