"""mergekit run on our mergekit.yaml makes our weights, to rounding; where there is no such file, the card says why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Group, ModelRef, Recipe, StackLayer
from evomerge.runs.exporting import Export
from evomerge.runs.mergekit_file import RANDOM, mergekit_file
from evomerge.runs.mergekit_settings import InexpressibleError, setting_of
from evomerge.search.settings import resolve
from evomerge.search.slices import shape_of_names
from tests.engine.oracles import mergekit_merge, values_in
from tests.engine.test_conformance import tensors
from tests.engine.tiny import engine_merge, family, llama, tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from roundtrip import recipes, round_trip

DEPTH = 4
ROUNDING = 8
"""Units in the last place of the largest weight of a tensor."""

LACKING = {"consensus", "pcb", "sce"}
QUICK = {("ties", "both"), ("slerp", "layers"), ("linear", "modules"), ("task_arithmetic", "stack"), ("della", "dense")}
INSIDE = ("input_layernorm.weight", "mlp.down_proj.weight", "mlp.up_proj.weight", "self_attn.q_proj.weight")
NAMES = [
    *(f"model.layers.{layer}.{path}" for layer in range(DEPTH) for path in INSIDE),
    *("model.embed_tokens.weight", "model.norm.weight"),
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    return family(tmp_path_factory.mktemp("zoo"), llama(tie_word_embeddings=False, num_hidden_layers=DEPTH))


def cases() -> list[Any]:
    kinds = ("uniform", "layers", "modules", "both", "stack", "dense")
    pairs = [(name, kind) for name in METHODS.names() for kind in kinds if kind != "dense" or name in RANDOM]
    return [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.exhaustive) for pair in pairs]


@pytest.mark.parametrize(("method", "kind"), cases())
def test_mergekit_makes_the_same_weights(method: str, kind: str, zoo: list[ModelRef], tmp_path: Path) -> None:
    found = round_trip(dict(recipes(method, zoo, "float32", DEPTH))[kind], tmp_path)
    if method in LACKING or (method in RANDOM and kind != "dense"):
        assert isinstance(found, str)
        return
    assert isinstance(found, dict), found
    assert found["ulp"] <= ROUNDING
    assert found["reads_back"]


@pytest.mark.parametrize("rows", ["as many as tokens", "more"])
def test_an_experts_tokenizer(rows: str, tmp_path: Path) -> None:
    zoo = family(tmp_path / "zoo", llama(tie_word_embeddings=False, vocab_size=64 if rows != "more" else 72))
    tokenizer(["<new>"]).save_pretrained(zoo[2].model)
    recipe = dict(recipes("ties", zoo, "float32", 3))["uniform"].model_copy(update={"tokenizer": "lang"})
    found = round_trip(recipe, tmp_path)
    if rows == "more":
        assert found == "rows of the embedding without a token, which it cuts off"
    else:
        assert isinstance(found, dict)
        assert found["ulp"] <= ROUNDING
        assert found["reads_back"]


def export_of(method: str, groups: list[dict[str, Any]], experts: int = 2, **more: Any) -> Export:
    recipe = Recipe(
        base=ModelRef(model="org/base"),
        experts=tuple(ModelRef(model=f"org/expert{i}") for i in range(experts)),
        method=method,
        groups=tuple(Group.model_validate(group) for group in groups),
        **more,
    )
    return Export("model", recipe, {}, "", 0, shape=shape_of_names(NAMES, DEPTH), tokens=64, rows=64)


def test_numbers_by_layer_and_module_are_gradients_and_filters() -> None:
    groups = [
        {"layers": "outside", "parameters": {"weight": 0.1}},
        *({"layers": [i, i + 1], "modules": "mlp", "parameters": {"weight": 0.2 + i / 10}} for i in range(DEPTH)),
        {"parameters": {"weight": {"expert0": 0.5, "expert1": 0.6}}},
    ]
    text = mergekit_file(export_of("task_arithmetic", groups)).text
    assert text is not None
    told = yaml.safe_load(text)
    assert told["models"][1]["parameters"]["weight"] == [
        {"filter": "lm_head", "value": 0.1},
        {"filter": "model.embed_tokens", "value": 0.1},
        {"filter": "model.norm", "value": 0.1},
        {"filter": "mlp", "value": [0.2 + i / 10 for i in range(DEPTH)]},
        {"value": 0.5},
    ]
    assert told["dtype"] == "float32"
    assert told["out_dtype"] == "bfloat16"
    assert told["parameters"] == {"normalize": False, "lambda": 1.0}


STACK = (StackLayer(layer=0), StackLayer(layer=0))
REASONS: dict[str, tuple[Export, str]] = {
    "masks": (export_of("dare_ties", [{"parameters": {"density": 0.5}}]), "random masks"),
    "no twin": (export_of("pcb", [{}]), "the method pcb, which it lacks"),
    "sce": (export_of("sce", [{}]), "sce as it is computed here"),
    "scales": (export_of("linear", [{}], stack=(StackLayer(layer=0, scale=0.5),)), "scales of stacked layers"),
    "borrowed": (
        export_of("linear", [{}], stack=(*STACK, StackLayer(layer=1, source="expert1"))),
        "another model's as they are",
    ),
    "cancelling": (
        export_of("linear", [{"parameters": {"weight": {"expert0": 1.0, "expert1": -1.0}}}]),
        "weights that cancel",
    ),
    "lambda": (export_of("ram", [{"parameters": {"lambda": 0.5}}]), "lambda of ram"),
    "weights": (
        export_of("karcher", [{"parameters": {"weight": {"expert0": 1.0, "expert1": 0.5}}}]),
        "karcher with weights",
    ),
    "union": (export_of("linear", [{}], tokenizer="union"), "a union of vocabularies"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_mergekit_cannot_say_is_not_written(name: str) -> None:
    export, reason = REASONS[name]
    file = mergekit_file(export)
    assert file.text is None
    assert reason in file.why_not


@pytest.mark.parametrize(("spread", "same"), [(0.5, True), (1e-4, False)])
def test_why_sce_is_not_written(spread: float, same: bool) -> None:
    base, models = tensors((64, 48), seed=1, experts=3, spread=spread)
    values = values_in("sce", {}, 3)
    ours = engine_merge(METHODS.get("sce"), base, models, values)
    apart = (ours - mergekit_merge("sce", base, models, values)).abs().max() / (ours - base).abs().max()
    assert (float(apart) < 1e-4) == same


PATHS = ("input_layernorm.weight", "mlp.down_proj.weight", "mlp.norm.weight", "self_attn.norm.weight", "norm.weight")
few = st.sampled_from([0.0, 0.5, 1.0, -0.25])
layer = st.fixed_dictionaries(dict.fromkeys(PATHS, few))
around = st.fixed_dictionaries(dict.fromkeys(("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"), few))


@settings(max_examples=100, deadline=None)
@given(st.lists(layer, min_size=1, max_size=7), around)
def test_mergekit_reads_every_setting_as_it_is_meant(layers: list[dict[str, float]], outside: dict[str, float]) -> None:
    from mergekit.config import InputModelDefinition, evaluate_setting

    names = [f"model.layers.{place}." for place in range(len(layers))]
    setting = setting_of(layers, outside, names)
    entry = InputModelDefinition.model_validate({"model": "a", "parameters": {"weight": setting}})
    assert entry.parameters is not None
    told = entry.parameters["weight"]
    for place, (numbers, name) in enumerate(zip(layers, names, strict=True)):
        t = place / (len(layers) - 1) if len(layers) > 1 else 1
        for path, value in numbers.items():
            assert evaluate_setting(f"{name}{path}", told, t, validate=float) == pytest.approx(value, abs=1e-12)
    for name, value in outside.items():
        assert evaluate_setting(name, told, 0, validate=float) == value


def test_filters_that_would_hit_other_tensors_are_not_written() -> None:
    layers = [{"norm.weight": 1.0, "post_norm.weight": 2.0, "pre_norm.weight": 3.0}]
    for around in (1.0, 2.0, 3.0, 4.0):
        setting = setting_of(layers, {"model.norm.weight": around}, ["model.layers.0."])
        assert resolve(setting, "model.norm.weight", 0.0, float) == around
        for path, value in layers[0].items():
            assert resolve(setting, f"model.layers.0.{path}", 1.0, float) == value
    with pytest.raises(InexpressibleError):
        setting_of([{"a": 1.0, "b.a": 2.0, "c.a": 3.0}], {}, [""])
    with pytest.raises(InexpressibleError, match="layers of different kinds"):
        setting_of([{"a": 1.0}, {"b": 1.0}], {}, ["0.", "1."])
