"""mergekit's configurations: read as mergekit reads them, to the weights; what has no recipe is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.errors import InputError
from evomerge.runs.export import write_recipe
from evomerge.search.recipes import read_merge, read_recipe
from evomerge.search.settings import resolve
from tests.engine.tiny import family, llama

LAYERS = 4
Slice = dict[str, Any]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    return family(tmp_path_factory.mktemp("zoo"), llama(tie_word_embeddings=False, num_hidden_layers=LAYERS))


def entry(model: str, **parameters: Any) -> dict[str, Any]:
    return {"model": model, **({"parameters": parameters} if parameters else {})}


def piece(start: int, stop: int, sources: dict[str, dict[str, Any]], **parameters: Any) -> Slice:
    found = [{**entry(model, **own), "layer_range": [start, stop]} for model, own in sources.items()]
    return {"sources": found, **({"parameters": parameters} if parameters else {})}


def based(method: str, *models: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return {"merge_method": method, "base_model": "base", "models": list(models), "parameters": parameters}


def sliced(method: str, *slices: Slice, **more: Any) -> dict[str, Any]:
    return {"merge_method": method, "slices": list(slices), **more}


GRADIENT = [0.1, 0.9, 0.4]
FILTERS = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "layers.2.mlp", "value": 0.9},
    {"filter": "mlp", "value": [1, 0.5, 0]},
    {"filter": "embed_tokens", "value": 0.1},
    {"value": 0.5},
]
OWN: list[dict[str, Any]] = [{"filter": "q_proj", "value": 1.0}, {"filter": "norm", "value": "2e-1"}]
DOWN = {"scale": [{"filter": "down_proj", "value": 0.5}, {"value": 1.0}]}

CASES: dict[str, dict[str, Any]] = {
    "filters and gradients": based("slerp", entry("base"), entry("math"), t=FILTERS),
    "scopes": based("ties", entry("math", weight=OWN), entry("lang"), weight=0.4, density=GRADIENT, int8_mask=True),
    "merged slices": sliced(
        "task_arithmetic",
        piece(0, 2, {"base": {}, "math": {"weight": 0.3}, "lang": {"weight": 0.6}}),
        piece(2, 4, {"base": {}, "math": {"weight": [0.9, 0.1]}, "lang": {}}, weight=0.2),
        base_model="base",
    ),
    "slices of other models": sliced(
        "ties",
        piece(0, 2, {"base": {}, "math": {"weight": 0.3}}),
        piece(2, 4, {"base": {}, "code": {"weight": 0.9}}),
        base_model="base",
        parameters={"density": 0.5},
    ),
    "repeated layers": sliced(
        "linear", *(piece(a, b, {"math": {"weight": 0.3}, "lang": {"weight": 0.4}}) for a, b in ((0, 3), (1, 4)))
    ),
    "the base of linear is an input": based("linear", entry("math"), entry("lang"), weight=[0.2, 1.0]),
    "scaled layers of two models": sliced("passthrough", piece(0, 2, {"math": DOWN}), piece(2, 4, {"lang": {}})),
}
MORE: dict[str, dict[str, Any]] = {
    "gradients": {"merge_method": "linear", "models": [entry("math", weight=GRADIENT), entry("lang", weight=0.5)]},
    "dropped layers": sliced(
        "slerp",
        *(piece(a, b, {"base": {}, "math": {}}) for a, b in ((0, 1), (2, 4))),
        base_model="base",
        parameters={"t": [0.2, 0.8]},
    ),
    "scaled projections": {"merge_method": "passthrough", "models": [entry("math", **DOWN)]},
    "layers of two models": sliced("passthrough", piece(0, 3, {"math": {}}), piece(1, 4, {"lang": {}})),
    "nuslerp": {"merge_method": "nuslerp", "models": [entry("math", weight=GRADIENT), entry("lang", weight=0.5)]},
    "nuslerp by rows": based("nuslerp", entry("math", weight=0.2), entry("lang", weight=1), nuslerp_flatten=False),
    "multislerp": based("multislerp", entry("math", weight=GRADIENT), entry("lang", weight=0.5)),
    "karcher": based("karcher", entry("math"), entry("lang"), max_iter=50, tol=1e-7),
    "model_stock": based("model_stock", entry("math"), entry("lang"), filter_wise=True),
    "sce": based("sce", entry("math"), entry("lang"), entry("code"), select_topk=[0.2, 0.9]),
    "ram": based("ram", entry("math"), entry("lang"), epsilon=0.01),
    "nearswap": based("nearswap", entry("math"), t=[0.001, 0.05]),
    "arcee_fusion": based("arcee_fusion", entry("math")),
    "breadcrumbs_ties": based(
        "breadcrumbs_ties", entry("math", weight=0.5, density=[0.3, 0.8], gamma=0.05), entry("lang", weight=0.4)
    ),
    "della normalizes": based("della", entry("math", weight=0.5), entry("lang", weight=GRADIENT)),
    "dare_ties": based("dare_ties", entry("math", weight=0.5), entry("lang", weight=GRADIENT)),
    "a module": {
        "merge_method": "linear",
        "modules": {"default": {"models": [entry("math"), entry("lang")], "parameters": {"weight": GRADIENT}}},
        "parameters": {"weight": 1},
    },
    "numbers as text": based(
        "task_arithmetic", entry("math", weight="5e-1"), entry("lang", weight=["1e-1", 0.4]), normalize="false"
    ),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MORE)])
def test_the_weights_are_mergekits(name: str, zoo: list[ModelRef], tmp_path: Path) -> None:
    path = written({**CASES, **MORE}[name], zoo, tmp_path)
    ours, theirs = merged(read_recipe(path), tmp_path / "ours"), by_mergekit(path, tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        torch.testing.assert_close(ours[tensor], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("source", ["lang", pytest.param("union", marks=pytest.mark.exhaustive)])
def test_tokenizers_are_mergekits(source: str, tmp_path: Path) -> None:
    from tests.engine.tiny import tokenizer

    zoo = family(tmp_path / "zoo", llama(tie_word_embeddings=False))
    tokenizer(["<new>"]).save_pretrained(zoo[2].model)
    raw = based("task_arithmetic", entry("math", weight=0.4), entry("lang", weight=0.5))
    path = written({**raw, "tokenizer": {"source": source}}, zoo, tmp_path)
    ours, theirs = merged(read_recipe(path), tmp_path / "ours"), by_mergekit(path, tmp_path / "theirs")
    for tensor, values in theirs.items():
        torch.testing.assert_close(ours[tensor][: len(values)], values, rtol=1e-6, atol=1e-6)


number = st.floats(-2, 2).map(lambda value: round(value, 3)) | st.integers(-1, 1)
gradient = number | st.lists(number, min_size=1, max_size=6)
filters = st.sampled_from([None, "*", "mlp", "q_proj", "layers.1.", "norm"])
condition = st.fixed_dictionaries({"value": gradient}, optional={"filter": filters})
NAMES = ["model.layers.1.mlp.up_proj.weight", "model.layers.11.self_attn.q_proj.weight", "model.norm.weight"]


@settings(max_examples=300, deadline=None)
@given(gradient | condition | st.lists(condition, min_size=1, max_size=4), st.sampled_from(NAMES), st.floats(0, 1))
def test_settings_mean_what_they_mean_to_mergekit(setting: Any, name: str, t: float) -> None:
    from mergekit.config import ConditionalParameter, evaluate_setting

    def parsed(value: Any) -> Any:
        if isinstance(value, dict):
            return ConditionalParameter.model_validate(value)
        return [parsed(each) for each in value] if isinstance(value, list) else value

    theirs = evaluate_setting(name, parsed(setting), t, validate=float)
    ours = resolve(setting, name, t, float)
    assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-8))


@pytest.mark.parametrize("layers", [1, 2, 3, 24, 49, 61, 127])
def test_a_gradient_with_a_value_a_layer_gives_exactly_these(layers: int) -> None:
    values = [0.1 + (place % 7) / 10 for place in range(layers)]
    assert [resolve(values, "", place / max(layers - 1, 1), float) for place in range(layers)] == values


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"paramters": {}}, "did you mean 'parameters'?"),
    "an unknown method": ({"merge_method": "tis"}, "did you mean 'ties'?"),
    "a method of mergekit's alone": (
        {"merge_method": "ramplus_tl"},
        "merge_method of a mergekit recipe must be one of",
    ),
    "models and slices": ({"slices": [piece(0, 4, {"math": {}})]}, "exactly one of models, slices and modules"),
    "no model": ({"models": []}, "exactly one of models, slices and modules"),
    "a model twice": ({"models": [entry("math"), entry("math")]}, "list each model once, but lists"),
    "the base alone": ({"models": [entry("base")]}, "must have a model beside its base_model"),
    "an unknown parameter": ({"parameters": {"wieght": 1}}, "did you mean 'weight'?"),
    "no weight": ({"parameters": {}}, "must be given, but is not"),
    "a weight that is none": ({"models": [entry("math", weight="heavy")]}, "weight must be a number, but got 'heavy'"),
    "a switch that is none": (
        {"parameters": {"weight": 1, "normalize": 3}},
        "normalize must be true or false, but got 3",
    ),
    "a switch for some": (
        {"parameters": {"weight": 1, "normalize": [{"filter": "mlp", "value": True}, {"value": False}]}},
        "normalize must be the same for all tensors",
    ),
    "a mixed list": ({"parameters": {"weight": [1, {"value": 2}]}}, "mixes both"),
    "a filter in a filter": ({"parameters": {"weight": [{"value": [{"value": 2}]}]}}, "no filters inside of filters"),
    "an empty gradient": ({"parameters": {"weight": []}}, "must have a value, but got []"),
    "a filter that is no text": ({"parameters": {"weight": [{"value": 1, "filter": 3}]}}, "at most a filter (text)"),
    "rescaling": ({"parameters": {"weight": 1, "rescale": True}}, "rescale of ties must be false"),
    "tokens by hand": ({"tokenizer": {"tokens": {"<x>": {}}}}, "tokenizer.tokens must be left out"),
    "padding": ({"tokenizer": {"pad_to_multiple_of": 64}}, "tokenizer.pad_to_multiple_of must be left out"),
    "a tokenizer of nobody": ({"tokenizer_source": "somebody"}, "tokenizer_source must be one of"),
    "both tokenizers": ({"tokenizer_source": "union", "tokenizer": {}}, "tokenizer_source or tokenizer, but has both"),
    "a named template": ({"chat_template": "chatml"}, "chat_template must be auto or the text of a template"),
    "an adapter's revision": (
        {"models": [entry("math+lora@v2", weight=1)]},
        "an adapter must be given without a revision",
    ),
    "an architecture": (
        {"models": [{"model": {"model": {"path": "math"}, "override_architecture": "X"}}]},
        "must do without override_architecture",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_recipe_is_refused_in_one_line(name: str, zoo: list[ModelRef], tmp_path: Path) -> None:
    change, message = REFUSED[name]
    raw = {**based("ties", entry("math"), entry("lang"), weight=1.0), **change}
    with pytest.raises(InputError) as error:
        read_merge(written(raw, zoo, tmp_path))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'merge.yaml'}: ")
    assert "\n" not in str(error.value)


def test_what_has_no_effect_is_told(zoo: list[ModelRef], tmp_path: Path) -> None:
    told: list[str] = []
    raw = based("slerp", entry("base"), entry("math"), t=0.3, normalize=True, int8_mask=True)
    read_merge(written(raw, zoo, tmp_path), told.append)
    assert told == ["recipe: normalize has no effect on slerp in mergekit; it is left out"]


def test_references_in_all_forms(tmp_path: Path) -> None:
    forms = ["math@v1+lora", {"model": {"path": "math", "revision": "v1"}, "lora": {"path": "lora"}}]
    raw = {"base_model": "base", "dtype": "float16", "out_dtype": "float32", "merge_method": "task_arithmetic"}
    read = [
        read_recipe(written({**raw, "models": [entry("x", weight=1.0) | {"model": form}]}, [], tmp_path))
        for form in forms
    ]
    assert read[0] == read[1]
    assert read[0].experts[0] == ModelRef(model="math", revision="v1", adapter="lora", name="lora")
    assert read[0].dtype == "float32"


@pytest.mark.parametrize("given_template", ["auto", "{{ messages[0]['content'] }}!"])
def test_chat_templates(given_template: str, zoo: list[ModelRef], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    raw = {**based("linear", entry("base", weight=0.5), entry("math", weight=0.5)), "chat_template": given_template}
    path = written(raw, zoo, tmp_path)
    read = read_merge(path)
    own = AutoTokenizer.from_pretrained(zoo[0].model).chat_template
    wanted = own if given_template == "auto" else given_template
    assert read.chat_template == wanted
    write_recipe(read.recipe, tmp_path / "out", "cpu", chat_template=read.chat_template)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == wanted
    with pytest.raises(InputError, match="chat_template is read by `evomerge merge` only"):
        read_recipe(path)


def written(raw: dict[str, Any], zoo: list[ModelRef], folder: Path) -> Path:
    """The configuration in a file, with the zoo's folders for its names."""
    places = {ref.name: ref.model for ref in zoo}

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [placed(each) for each in value]
        return places.get(value, value) if isinstance(value, str) else value

    path = folder / "merge.yaml"
    path.write_text(yaml.safe_dump(placed({"dtype": "float32", **raw}), sort_keys=False))
    return path


def merged(recipe: Recipe, folder: Path) -> dict[str, torch.Tensor]:
    write_recipe(recipe, folder, "cpu")
    return tensors(folder)


def by_mergekit(path: Path, folder: Path) -> dict[str, torch.Tensor]:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    run_merge(config, str(folder), MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
    return tensors(folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
