"""`evomerge space`: what a search may vary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.runs.spaces import layers_of, space_of
from evomerge.search.config import load_config
from tests.runs.conftest import CONFIG, EXAMPLE, Command

STACK = ["--set", "space.layers=stack", "--set", "space.max_layers=6"]
TWO = ["--set", "merge.method=[ties, task_arithmetic]", "--set", "space.density=[0.2, 1.0]"]


@pytest.fixture
def told(evomerge: Command) -> Any:
    """What the verb says in JSON with these settings, and the space itself."""

    def call(*settings: str) -> tuple[dict[str, Any], Any]:
        given = [value for setting in settings for value in ("--set", setting)]
        said = evomerge("space", CONFIG, "--json", *given)
        assert said.code == 0
        return json.loads(said.out), space_of(load_config(CONFIG, list(settings)))[0]

    return call


@pytest.mark.parametrize("layers", ["uniform", "blocks", "per_layer", "dct", "knots", "stack"])
def test_json_has_every_dimension_with_its_bounds(told: Any, layers: str) -> None:
    found, space = told(f"space.layers={layers}", "space.blocks=2", "space.knots=3", "space.modules=[attention, other]")
    assert found["layers"] == layers
    assert found["num_layers"] == 4
    assert [(each["name"], each["low"], each["high"], each["gate"]) for each in found["dimensions"]] == [
        (each.name, each.low, each.high, each.is_gate) for each in space.dimensions("task_arithmetic")
    ]
    assert found["methods"] == {
        "task_arithmetic": {"dimensions": len(found["dimensions"]), "fixed": {"lambda": 1.0}},
    }


def test_json_says_which_methods_have_a_dimension_and_what_is_fixed(told: Any) -> None:
    found, _ = told("merge.method=[ties, task_arithmetic]", "space.density=0.5", "merge.options={lambda: 0.8}")
    assert {tuple(each["methods"]) for each in found["dimensions"]} == {("ties", "task_arithmetic")}
    assert found["methods"]["ties"]["fixed"] == {"density": 0.5, "lambda": 0.8}
    assert found["methods"]["task_arithmetic"]["fixed"] == {"lambda": 0.8}
    assert found["conditions"] == ["Only the numbers of the method that is chosen matter."]


def test_options_are_the_users_or_their_defaults(told: Any) -> None:
    found, _ = told("space.layers=stack", "space.repeats=3")
    assert found["options"] == {
        "repeats": 3, "stack_block": None, "max_layers": None, "stack_scale": [0.8, 1.2], "sources": "merged",
    }  # fmt: skip


def test_the_page_has_every_dimension_the_number_of_them_and_the_conditions(evomerge: Command) -> None:
    said = evomerge("space", CONFIG, *STACK, *TWO)
    space, _ = space_of(load_config(CONFIG, [each for each in STACK + TWO if each != "--set"]))
    words = " ".join(said.out.split())
    assert said.code == 0
    assert all(each.name in said.out for method in space.methods for each in space.dimensions(method))
    assert f"ties: {len(space.dimensions('ties'))} dimensions; lambda fixed at 1" in words
    assert "method: one of ties, task_arithmetic" in words
    assert "does not fit into 6 layers any more" in words


def test_the_layers_are_counted_without_weights(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "models" / "base" / "config.json", tmp_path)
    assert layers_of(ModelRef(model=str(tmp_path))) == 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "gpt3"}', "must be a folder or a hub id whose configuration transformers reads, but"),
        ('{"model_type": "resnet"}', "must have num_hidden_layers, but has none"),
    ],
)
def test_a_configuration_that_does_not_say_is_refused(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=said):
        layers_of(ModelRef(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("space.blocks=5", "evomerge: space.blocks must be from 1 to the number of layers (4), but got 5"),
        ("space.wieght=[0,1]", "evomerge: a key of space must be one of"),
        ("merge.method=task_arithmetc", "did you mean 'task_arithmetic'?"),
        ("models.base=./nowhere", "a model must be a folder or a hub id, but there is no folder"),
    ],
)
def test_wrong_spaces_are_one_line_errors(evomerge: Command, setting: str, said: str) -> None:
    result = evomerge("space", CONFIG, "--set", "space.layers=blocks", "--set", setting)
    assert result.code == 2
    assert said in result.error
    assert result.error.count("\n") == 1
