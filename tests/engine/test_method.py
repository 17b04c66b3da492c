from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import torch

from evomerge.engine import METHODS, merge_method, validate
from evomerge.engine.method import Choice, Lambda, Number, Switch, Weight, check_recipe
from evomerge.engine.plan import Combination, Keep, TaskVectors, copy_base, move, task_vectors
from evomerge.engine.recipe import ParameterSpec, Recipe
from evomerge.engine.tensors import merge_tensors
from evomerge.errors import InputError

EXPERTS = ("math", "lang")


@pytest.fixture
def registered():
    """Takes out again what a test registers."""
    METHODS.names()
    before = dict(METHODS._members)
    yield
    METHODS._members.clear()
    METHODS._members.update(before)


def test_built_in_methods():
    assert " ".join(METHODS.names()) == (
        "arcee_fusion breadcrumbs breadcrumbs_ties consensus dare_linear dare_ties della della_linear karcher linear"
        " model_stock multislerp nearswap nuslerp passthrough pcb ram sce slerp task_arithmetic ties"
    )


def test_the_signature_is_the_schema(registered):
    @merge_method(name="toy", paper="arXiv:0", max_experts=2, neutral={"lambda": 0.0})
    def toy(
        statistics,
        *,
        weight: Weight,
        lambda_: Lambda,
        depth: Annotated[float, Number(0.5, low=0.0, high=2.0)],
        fast: Annotated[bool, Switch(True)],
        mode: Annotated[str, Choice("a", ("a", "b"))],
    ):
        """Do this."""
        return weight, lambda_, depth, fast, mode

    assert METHODS.get("toy") is toy
    assert toy.doc == "Do this."
    assert toy.parameters == (
        ParameterSpec(
            name="weight", kind="number", per_expert=True, default=1.0, low=-10.0, high=10.0, search=(0.0, 1.2)
        ),
        ParameterSpec(name="lambda", kind="number", default=1.0, low=-10.0, high=10.0),
        ParameterSpec(name="depth", kind="number", default=0.5, low=0.0, high=2.0),
        ParameterSpec(name="fast", kind="switch", default=True),
        ParameterSpec(name="mode", kind="choice", default="a", choices=("a", "b")),
    )
    values = toy.bind({"weight": {"lang": 2, "math": 1}, "depth": 1}, {"mode": "b", "lambda": 3}, EXPERTS)
    assert toy.plan(None, values) == ((1.0, 2.0), 3.0, 1.0, True, "b")
    with pytest.raises(InputError, match="toy must have 1 to 2 experts, but got 3: a, b, c"):
        toy.bind({}, {}, ("a", "b", "c"))


def test_undeclared_parameters_and_taken_names_are_refused(registered):
    def bare(statistics, *, weight: float):
        return weight

    with pytest.raises(TypeError, match="weight of bare must declare a Number"):
        merge_method(name="bare", paper="")(bare)
    with pytest.raises(ValueError, match="'ties' is registered twice"):
        merge_method(name="ties", paper="")(lambda statistics: None)


@pytest.mark.parametrize(
    ("numbers", "options", "message"),
    [
        ({"wieght": 1.0}, {}, "a parameter of ties must be one of .* but got 'wieght'; did you mean 'weight'"),
        ({}, {"normalise": True}, "a parameter of ties must be one of .*did you mean 'normalize'"),
        ({"weight": 11}, {}, r"weight of ties must lie in \[-10, 10\], but got 11"),
        ({"weight": {"math": 11, "lang": 0}}, {}, r"weight\[math\] of ties must lie in \[-10, 10\], but got 11"),
        ({"density": (0.5, 1.5)}, {}, r"density of ties must lie in \[0, 1\], but got 1\.5"),
        ({"density": (0.8, 0.2)}, {}, r"density of ties must have low <= high, but got \[0\.8, 0\.2\]"),
        ({"weight": {"math": 1}}, {}, "weight must give a number for every expert, but lacks 'lang'"),
        ({"weight": {"math": 1, "lnag": 1}}, {}, "an expert in weight must be one of .*did you mean 'lang'"),
        ({"lambda": {"math": 1, "lang": 1}}, {}, "lambda of ties must be one number for all experts"),
        ({"normalize": 1.0}, {}, "normalize of ties is a switch and belongs to the options"),
        ({}, {"normalize": 1}, "normalize of ties must be true or false, but got 1"),
        ({}, {"density": 2}, r"density of ties must lie in \[0, 1\], but got 2"),
    ],
)
def test_validate_refuses(numbers, options, message):
    with pytest.raises(InputError, match=message) as raised:
        validate(METHODS.get("ties"), numbers, options, EXPERTS)
    assert "\n" not in str(raised.value)


def test_choices_name_the_nearest():
    with pytest.raises(InputError, match=r"rescale of dare_ties must be one of .*did you mean 'l1'"):
        validate(METHODS.get("dare_ties"), {}, {"rescale": "L1"}, EXPERTS)


def test_validate_accepts_numbers_bounds_and_mappings():
    numbers = {"weight": {"math": (0.0, 1.0), "lang": 0.3}, "density": (0.2, 1.0), "lambda": 0.5}
    validate(METHODS.get("ties"), numbers, {"normalize": False}, EXPERTS)


@pytest.mark.parametrize(
    ("name", "experts", "message"),
    [
        ("slerp", ("math", "lang"), "slerp must have exactly 1 expert, but got 2: math, lang"),
        ("nuslerp", ("math",), "nuslerp must have exactly 2 experts, but got 1: math"),
        ("nuslerp", ("a", "b", "c"), "nuslerp must have exactly 2 experts, but got 3: a, b, c"),
        ("model_stock", ("math",), "model_stock must have at least 2 experts, but got 1: math"),
    ],
)
def test_the_number_of_experts_is_checked(name, experts, message):
    with pytest.raises(InputError, match=message):
        validate(METHODS.get(name), {}, {}, experts)


def test_check_recipe():
    recipe = Recipe(base="base", experts=("math", "lang"), method="ties")
    assert check_recipe(recipe).name == "ties"
    with pytest.raises(InputError, match=r"merge method must be one of .*'tis'; did you mean 'ties'"):
        check_recipe(recipe.model_copy(update={"method": "tis"}))


@pytest.mark.parametrize(
    ("weight", "normalize", "plan"),
    [
        ((1.0, 3.0), True, Combination(0.0, (0.25, 0.75))),
        ((1.0, 3.0), False, Combination(0.0, (1.0, 3.0))),
        ((0.0, 0.0), True, copy_base(2)),
        ((0.0, 0.0), False, copy_base(2)),
        ((1.0, -1.0), True, copy_base(2)),
        ((1.0, -1.0 + 1e-9), True, copy_base(2)),
        ((1.0, -1.0), False, Combination(0.0, (1.0, -1.0))),
        ((1.0, -0.5), True, Combination(0.0, (2.0, -1.0))),
    ],
)
def test_linear(weight, normalize, plan):
    values = {"weight": weight, "normalize": normalize}
    assert METHODS.get("linear").plan(None, values) == plan


HALF = Keep(cut=2**31, scale=2.0)


@pytest.mark.parametrize(
    ("weight", "keep", "elect", "normalize", "scale", "plan"),
    [
        ((1.0, 0.0), (Keep(), HALF), True, False, 1.0, Combination(0.0, (1.0, 0.0))),
        ((0.5, 0.25), (Keep(), Keep()), False, False, 1.0, Combination(0.25, (0.5, 0.25))),
        ((0.5, 0.25), (Keep(), Keep()), False, True, 3.0, Combination(-2.0, (2.0, 1.0))),
        ((0.0, 0.0), (HALF, HALF), True, True, 1.0, copy_base(2)),
        ((0.5, 0.5), (HALF, HALF), True, True, 0.0, copy_base(2)),
        ((1.0, -1.0), (Keep(), Keep()), False, True, 1.0, Combination(1.0, (1.0, -1.0))),
        ((1.0, 3.0), (HALF, Keep()), False, True, 1.0, TaskVectors((0.25, 0.75), (HALF, Keep()), False, False, 1.0)),
        ((1.0, 3.0), (Keep(), Keep()), True, True, 1.0, TaskVectors((1.0, 3.0), (Keep(), Keep()), True, True, 1.0)),
    ],
)
def test_task_vectors_take_the_simplest_plan(weight, keep, elect, normalize, scale, plan):
    assert task_vectors(weight, keep, elect=elect, normalize=normalize, scale=scale) == plan


def test_the_example_of_the_documentation_works(registered):
    text = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names = {"merge_method": merge_method, "Weight": Weight, "Lambda": Lambda, "move": move}
    exec(code, {**names, "ParameterStatistics": object, "Plan": object})
    base, expert = torch.zeros(4), torch.ones(4)
    assert torch.equal(merge_tensors("half", base, {"math": expert}, {"weight": 0.5}), torch.full((4,), 0.25))


def test_the_documentation_names_every_method():
    text = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()
    assert [name for name in METHODS.names() if f"`{name}`" not in text] == []


def test_how_many_experts_in_words():
    said = {name: METHODS.get(name).takes for name in ("slerp", "nuslerp", "model_stock", "pcb", "ties")}
    assert list(said.values()) == [
        "exactly 1 expert", "exactly 2 experts", "at least 2 experts", "1 to 64 experts", "at least 1 expert"
    ]  # fmt: skip
