"""Methods, spaces, samplers and warm starts that do not go together, or take more trials."""

from __future__ import annotations

import pytest

from evomerge.errors import InputError
from tests.runs.doctor.conftest import levels, look, subject


def test_the_example_goes_together() -> None:
    at = subject()
    for name in ("methods", "space", "warm starts", "sampler"):
        assert levels(look(name, at)) == {"ok"}, name


@pytest.mark.parametrize(
    ("check", "setting", "text"),
    [
        ("methods", "merge.method=tiess", "ties"),
        ("methods", "merge.options={densty: 0.5}", "densty"),
        ("methods", "merge.method=slerp", "slerp"),
        ("space", "space.modules=[attention, '(']", "regular expression"),
        ("space", "space.densities=0.5", "densities"),
        ("warm starts", "search.warm_start=[unifrom]", "uniform"),
        ("warm starts", "evaluate.constraints=[{task: quickstart_add, at_least: addd}]", "addd"),
        ("sampler", "search.sampler=cmase", "cmaes"),
        ("sampler", "search.sampler_options={restarts: 2}", "restarts"),
    ],
)
def test_what_is_wrong_is_told_with_the_key(check: str, setting: str, text: str) -> None:
    with pytest.raises(InputError, match=text.replace("(", r"\(")):
        look(check, subject(setting))


@pytest.mark.parametrize(
    ("sampler", "layers", "trials", "level"),
    [
        ("cmaes", "uniform", 70, "ok"),
        ("cmaes", "per_layer", 50, "warning"),
        ("gp", "per_layer", 20, "warning"),
        ("gp", "uniform", 20, "ok"),
        ("tpe", "per_layer", 40, "warning"),
        ("random", "per_layer", 500, "warning"),
        ("auto", "per_layer", 20, "ok"),
    ],
)
def test_too_few_trials_for_so_many_dimensions(sampler: str, layers: str, trials: int, level: str) -> None:
    at = subject(f"search.sampler={sampler}", f"space.layers={layers}", f"search.trials={trials}")
    assert levels(look("sampler", at)) == {level}


def test_a_samplers_name_is_checked_though_the_base_is_not_here() -> None:
    with pytest.raises(InputError, match="cmaes"):
        look("sampler", subject("models.base=org/base-7b", "search.sampler=cmase"))


def test_a_search_without_warm_starts_is_warned_of() -> None:
    assert levels(look("warm starts", subject("search.warm_start=[]"))) == {"warning"}
