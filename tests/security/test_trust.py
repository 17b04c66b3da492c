"""What comes from a database or a recipe runs nothing that the user has not named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.errors import InputError
from evomerge.search.config import SearchConfig
from evomerge.search.trust import needs_of, require_own_models, require_trusted, require_trusted_recipe

PLAIN: dict[str, Any] = {
    "name": "x",
    "models": {"base": "org/base", "experts": ["/zoo/math"]},
    "evaluate": {"tasks": ["gsm8k"]},
}
WANTS: list[tuple[dict[str, Any], str]] = [
    ({"models": {"base": {"model": "org/base", "trust_remote_code": True}, "experts": ["/zoo/math"]}}, "org/base"),
    ({"models": {"base": "org/base", "experts": [{"model": "/zoo/m", "trust_remote_code": True}]}}, "/zoo/m"),
    ({"search": {"sampler": "package.module:Class"}}, "package.module:Class"),
    ({"search": {"sampler": "optunahub:samplers/x:Class"}}, "optunahub:samplers/x:Class"),
    ({"search": {"warm_start": ["uniform", "/data/recipe.yaml"]}}, "/data/recipe.yaml"),
    ({"evaluate": {"tasks": ["gsm8k"], "include_path": "/data/tasks"}}, "/data/tasks"),
    ({"evaluate": {"tasks": [{"function": "a.b:c"}]}}, "a.b:c"),
    ({"evaluate": {"tasks": [{"perplexity": "/data/a.txt"}]}}, "/data/a.txt"),
    ({"evaluate": {"tasks": ["a"], "constraints": [{"function": "a.b:d", "at_least": 0.1}]}}, "a.b:d"),
    ({"evaluate": {"tasks": ["gsm8k"], "allow_unsafe_code": True}}, "unsafe-code"),
]


def config(**changes: Any) -> SearchConfig:
    return SearchConfig.model_validate({**PLAIN, **changes})


def test_a_plain_configuration_needs_nothing() -> None:
    assert list(needs_of(config())) == []
    require_trusted(config(), (), "study x")


@pytest.mark.parametrize(("changes", "name"), WANTS)
def test_each_thing_has_to_be_named(changes: dict[str, Any], name: str) -> None:
    wanted = config(**changes)
    with pytest.raises(InputError, match=r"study x: .* add --trust ") as caught:
        require_trusted(wanted, ("something", "/data/other", "org"), "study x")
    assert str(caught.value).endswith(f"--trust {name}")
    require_trusted(wanted, (name,), "study x")


def test_a_folder_admits_what_is_below_it_alone(tmp_path: Path) -> None:
    wanted = config(evaluate={"tasks": ["gsm8k"], "include_path": str(tmp_path / "tasks" / "mine")})
    require_trusted(wanted, (str(tmp_path),), "study x")
    for other in (tmp_path / "task", tmp_path / "tasks" / "mine" / "more", tmp_path / "tasks" / ".." / "task"):
        with pytest.raises(InputError):
            require_trusted(wanted, (str(other),), "study x")
    leaving = config(evaluate={"tasks": ["gsm8k"], "include_path": str(tmp_path / "tasks" / ".." / ".." / "x")})
    with pytest.raises(InputError):
        require_trusted(leaving, (str(tmp_path / "tasks"),), "study x")


def test_a_recipe_does_not_speak_for_the_user() -> None:
    recipe = Recipe(
        base=ModelRef(model="a/b"), experts=(ModelRef(model="c/d", trust_remote_code=True),), method="linear"
    )
    with pytest.raises(InputError, match="add --trust c/d"):
        require_trusted_recipe(recipe, (), "recipe.yaml")
    require_trusted_recipe(recipe, ("c/d",), "recipe.yaml")


def test_recipes_of_a_study_merge_its_own_models() -> None:
    own = config()
    recipe = Recipe(base=own.models.base, experts=own.models.experts, method="linear")
    require_own_models(recipe, own, "trial 3")
    for changed in (ModelRef(model="/zoo/evil", name="math"), ModelRef(model="/zoo/math", trust_remote_code=True)):
        with pytest.raises(InputError, match="trial 3 must merge the models of its run"):
            require_own_models(recipe.model_copy(update={"experts": (changed,)}), own, "trial 3")


def test_a_recipe_that_is_scored_does_not_either(tmp_path: Path) -> None:
    from evomerge.runs.evaluation import evaluate_source

    (tmp_path / "recipe.yaml").write_text(
        "base: {model: a/b, trust_remote_code: true}\nexperts: [c/d]\nmethod: linear\n"
    )
    with pytest.raises(InputError, match="add --trust a/b"):
        evaluate_source(str(tmp_path / "recipe.yaml"), config(), "all")
