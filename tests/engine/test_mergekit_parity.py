"""Parity with mergekit 0.1.5 in float32, to 1e-6. A method that mergekit lacks says so in NO_TWIN."""

from __future__ import annotations

import pytest
import torch
from mergekit.merge_methods.api import merge_state_dicts

from evomerge.engine import Merger
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.method import METHODS
from tests.engine.oracles import CASES, NO_TWIN, SEED, mergekit_merge, values_in
from tests.engine.test_conformance import experts_of, tensors
from tests.engine.tiny import engine_merge, recipe


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
@pytest.mark.parametrize("shape", [(64, 48), (257,)])
def test_tensors_equal_mergekit(name, case, shape):
    method = METHODS.get(name)
    base, models = tensors(shape, seed=1, experts=experts_of(method), spread=case.get("spread", 0.5))
    values = values_in(name, case, len(models))
    got = engine_merge(method, base, models, values, seed=SEED)
    torch.testing.assert_close(got, mergekit_merge(name, base, models, values), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("linear", {"weight": 0.5}, {"weight": 0.5}),
        ("task_arithmetic", {"weight": 0.4}, {"weight": 0.4}),
        ("ties", {"weight": 0.8, "density": 0.4}, {"weight": 0.8, "density": 0.4}),
        ("slerp", {"t": 0.35}, {"t": 0.35}),
        ("sce", {"select_topk": 0.5}, {"select_topk": 0.5}),
        ("model_stock", {}, {}),
        ("breadcrumbs", {"weight": 0.8, "density": 0.4}, {"weight": 0.8, "density": 0.4}),
    ],
)
def test_whole_models_equal_mergekit(name, ours, theirs, zoo):
    refs = zoo[: 1 + experts_of(METHODS.get(name))]
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
