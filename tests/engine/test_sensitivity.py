"""Slopes against central differences of a loss through `Merger.apply`, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, MixtralConfig

from evomerge.engine.compiled import Launcher
from evomerge.engine.materialize import Merger
from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Group, ModelRef, ParameterSpec, Recipe, StackLayer
from evomerge.engine.sensitivity import COARSE, Slopes, slopes_of
from evomerge.errors import InputError
from tests.engine.tiny import family, llama

Loss = Callable[[torch.nn.Module], torch.Tensor]
IDS = torch.tensor([[3, 9, 27, 17, 51, 23], [5, 25, 61, 49, 53, 8]])


def likelihood(model: torch.nn.Module) -> torch.Tensor:
    logits = model(input_ids=IDS).logits[:, :-1].double()
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), IDS[:, 1:].reshape(-1))


def inner_product(model: torch.nn.Module) -> torch.Tensor:
    """Linear in the weights, so that a difference over any distance is the mean slope over it."""
    generator = torch.Generator().manual_seed(0)
    return sum(
        (parameter.double() * torch.randn(parameter.shape, generator=generator)).sum()
        for parameter in model.parameters()
    )


def number_of(spec: ParameterSpec, place: int, scale: float) -> float:
    """Somewhere inside of the range, different for each expert."""
    if spec.name in ("lambda", "agree"):
        return 0.9 * scale
    low, high = spec.search or (0.1, 0.8 if spec.high <= 1.0 else 1.2)
    return low + (high - low) * scale * (0.62, 0.4, 0.25)[place]


def recipe_of(refs: list[ModelRef], method: str, scales: list[float], **more: object) -> Recipe:
    """Groups of layers and modules with numbers of their own."""
    experts = refs[1 : 1 + (METHODS.get(method).max_experts or 3)]
    specs = [spec for spec in METHODS.get(method).parameters if spec.kind == "number"]
    places = [{"layers": (0, 2), "modules": "attention"}, {"layers": "outside"}, {}]
    groups = [
        Group(
            **place,
            parameters={
                spec.name: {ref.name: number_of(spec, i, scale) for i, ref in enumerate(experts)}
                if spec.per_expert
                else number_of(spec, 0, scale)
                for spec in specs
            },
        )
        for place, scale in zip(places, scales, strict=True)
    ]
    return Recipe(base=refs[0], experts=tuple(experts), method=method, groups=tuple(groups), dtype="float32", **more)


def merger_of(recipe: Recipe) -> Merger:
    return Merger(recipe.base, recipe.experts, "float32", "cpu", launcher=Launcher(None), methods=(recipe.method,))


def slopes_at(merger: Merger, recipe: Recipe, loss: Loss, *parameters: str) -> Slopes:
    merger.apply(recipe)
    with slopes_of(merger, recipe, parameters or None) as slopes:
        loss(merger.model).backward()
    return slopes


def difference(merger: Merger, recipe: Recipe, group: int, key: tuple[str, str], loss: Loss) -> float:
    """The central difference of the loss over the distance that slopes of kernels are taken over."""
    parameter, expert = key
    spec = METHODS.get(recipe.method).parameter(parameter)
    step = COARSE * ((spec.search[1] - spec.search[0]) if spec.search else min(1.0, spec.high - spec.low))
    found = []
    for sign in (1, -1):
        numbers = dict(recipe.groups[group].parameters)
        held = numbers[parameter]
        numbers[parameter] = {**held, expert: held[expert] + sign * step} if expert else held + sign * step
        groups = list(recipe.groups)
        groups[group] = groups[group].model_copy(update={"parameters": numbers})
        merger.apply(recipe.model_copy(update={"groups": tuple(groups)}))
        with torch.no_grad():
            found.append(float(loss(merger.model)))
    return (found[0] - found[1]) / (2 * step)


def check(recipe: Recipe, loss: Loss, tolerance: float = 0.02) -> None:
    """Compare slopes of every parameter and expert; those of the first expert in every group."""
    merger = merger_of(recipe)
    slopes = slopes_at(merger, recipe, loss)
    for place, (parameter, expert) in enumerate(slopes[0]):
        groups = range(len(slopes)) if expert in ("", recipe.experts[0].name) else [place % len(slopes)]
        for group in groups:
            found = slopes[group]
            expected = difference(merger, recipe, group, (parameter, expert), loss)
            largest = max(abs(each) for (name, _), each in found.items() if name == parameter)
            assert found[parameter, expert] == pytest.approx(expected, abs=tolerance * max(largest, 1e-6))


@pytest.mark.parametrize("method", METHODS.names())
def test_slopes_of_every_method_and_parameter_are_those_of_a_linear_loss(zoo, method):
    if not any(spec.kind == "number" for spec in METHODS.get(method).parameters):
        recipe = recipe_of(zoo, method, [1.0] * 3)
        assert slopes_at(merger_of(recipe), recipe, inner_product) == [{}] * 3
        return
    check(recipe_of(zoo[:3], method, [1.0, 0.8, 0.9]), inner_product)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("task_arithmetic", {}),
        ("task_arithmetic", {"normalize": True}),
        ("linear", {}),
        ("karcher", {"task_vectors": True}),
        ("nuslerp", {"row_wise": True}),
        ("dare_linear", {}),
    ],
)
def test_slopes_are_those_of_a_log_likelihood(zoo, method, options):
    recipe = recipe_of(zoo, method, [1.0, 0.8, 0.9], options=options)
    groups = tuple(
        group.model_copy(update={"parameters": {k: v for k, v in group.parameters.items() if k != "density"}})
        for group in recipe.groups
    )
    merger = merger_of(recipe)
    recipe = recipe.model_copy(update={"groups": groups})
    slopes = slopes_at(merger, recipe, likelihood, "weight")
    for group, found in enumerate(slopes):
        assert {name for name, _ in found} == {"weight"}
        for key, slope in found.items():
            assert slope == pytest.approx(difference(merger, recipe, group, key, likelihood), rel=0.02, abs=2e-5)


@pytest.mark.parametrize(
    "config",
    [
        llama(tie_word_embeddings=False),
        GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=2),
        MixtralConfig(
            vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
            num_key_value_heads=1, num_local_experts=2, max_position_embeddings=64,
        ),
    ],
    ids=["untied", "transposed", "fused"],
)  # fmt: skip
def test_slopes_hold_for_other_layouts(tmp_path: Path, config):
    refs = family(tmp_path, config)[:3]
    check(recipe_of(refs, "task_arithmetic", [1.0, 0.8, 0.9]), likelihood)


def test_layers_of_a_stack_count_as_often_as_they_stand_in_it(zoo):
    stack = tuple(
        StackLayer(layer=layer, source=source) for layer, source in [(0, "merged"), (0, "merged"), (2, "lang")]
    )
    check(recipe_of(zoo, "task_arithmetic", [1.0, 0.8, 0.9], stack=stack), likelihood)


def test_slopes_add_up_over_backward_passes(zoo):
    recipe = recipe_of(zoo, "ties", [1.0, 0.8, 0.9])
    merger = merger_of(recipe)
    once = slopes_at(merger, recipe, likelihood)
    with slopes_of(merger, recipe) as slopes:
        for share in (0.3, 0.7):
            (share * likelihood(merger.model)).backward()
    for first, second in zip(once, slopes, strict=True):
        assert second == pytest.approx(first, rel=1e-4, abs=1e-7)


def test_slopes_in_bfloat16_are_near_those_in_float32(zoo):
    exact = recipe_of(zoo, "task_arithmetic", [1.0, 0.8, 0.9])
    rounded = exact.model_copy(update={"dtype": "bfloat16"})
    merger = Merger(rounded.base, rounded.experts, "bfloat16", "cpu", launcher=Launcher(None))
    pairs = zip(slopes_at(merger_of(exact), exact, likelihood), slopes_at(merger, rounded, likelihood), strict=True)
    for wanted, found in pairs:
        assert found == pytest.approx(wanted, abs=0.1 * max(map(abs, wanted.values())))


def test_numbers_at_the_end_of_their_range_are_moved_inwards(zoo):
    group = Group(parameters={"weight": {"math": 0.5, "lang": 0.5, "code": 10.0}, "density": 1.0})
    recipe = Recipe(base=zoo[0], experts=tuple(zoo[1:]), method="ties", groups=(group,), dtype="float32")
    (slopes,) = slopes_at(merger_of(recipe), recipe, inner_product)
    assert all(math.isfinite(slope) for slope in slopes.values())
    assert all(slopes["density", expert] != 0.0 for expert in ("math", "lang", "code"))


def test_the_model_is_as_before(zoo):
    recipe = recipe_of(zoo, "linear", [1.0, 0.8, 0.9])
    merger = merger_of(recipe)
    merger.apply(recipe)
    before = {name: tensor.clone() for name, tensor in merger.model.state_dict().items()}

    def broken() -> Slopes:
        with slopes_of(merger, recipe) as slopes:
            likelihood(merger.model).backward()
            seen.append(slopes)
            raise ZeroDivisionError

    seen: list[Slopes] = []
    with pytest.raises(ZeroDivisionError):
        broken()
    assert any(seen[0][0].values())
    known = [dict(each) for each in seen[0]]
    for name, tensor in merger.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(p.requires_grad or p.grad is not None for p in merger.model.parameters())
    assert not merger.model.training
    assert not likelihood(merger.model).requires_grad
    assert seen[0] == known


def test_a_recipe_of_other_models_is_refused(zoo):
    recipe = recipe_of(zoo, "linear", [1.0, 0.8, 0.9])
    merger = Merger(zoo[0], zoo[1:3], "float32", "cpu", launcher=Launcher(None))
    with pytest.raises(InputError, match="an expert of a recipe must be one of lang, math, but got 'code'"):
        slopes_of(merger, recipe).__enter__()
