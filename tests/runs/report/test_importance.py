"""Which numbers matter: those that the objective was made to depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from evomerge.engine.recipe import Group, Recipe
from evomerge.runs.report import importance
from evomerge.runs.report.facts import read_facts
from evomerge.runs.report.importance import AT_LEAST, _chosen, effects
from evomerge.runs.run import Run
from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.study import RECIPE
from tests.runs.report.made import Made


def searched(folder: Path, trials: int, **weights: float) -> Run:
    """A search in which the objective is a bowl around the weights 0.6, as steep for each expert as `weights` say."""
    made = Made(folder, experts=list(weights), trials=0, finished=False)
    run = made.run()
    generator = np.random.default_rng(0)
    models = run.config.models
    for point in generator.random((trials, len(weights))):
        numbers = dict(zip(weights, point.tolist(), strict=True))
        recipe = Recipe(
            base=models.base, experts=models.experts, method="linear", groups=(Group(parameters={"weight": numbers}),)
        )
        value = 0.8 - sum(steep * (numbers[name] - 0.6) ** 2 for name, steep in weights.items())
        attributes: dict[str, Any] = {RECIPE: recipe.model_dump_json(), "tasks": {}}
        run.study.add_trial(create_trial(value=value, user_attrs=attributes))
    return Run(folder, run.config, run.study, open_storage(sqlite_url(folder / "study.db")))


def test_effects_are_ranked_as_the_objective_depends_on_them(tmp_path: Path) -> None:
    found = effects(read_facts(searched(tmp_path, 60, strong=1.0, weak=0.1, idle=0.0)))
    assert found is not None
    ranked = [effect.key for effect in sorted(found, key=lambda effect: -effect.size)]
    assert ranked == [("weight", "strong"), ("weight", "weak"), ("weight", "idle")]
    sizes = {effect.key[1]: effect.size for effect in found}
    assert sizes["idle"] < 0.1 * sizes["strong"]


def test_the_direction_that_would_help_is_seen(tmp_path: Path) -> None:
    run = searched(tmp_path, 60, strong=1.0, weak=0.1)
    (strong,) = [effect for effect in effects(read_facts(run)) or [] if effect.key[1] == "strong"]
    better = strong.more if strong.value < 0.6 else strong.less
    worse = strong.less if strong.value < 0.6 else strong.more
    assert better > worse


def test_too_few_trials_say_nothing(tmp_path: Path) -> None:
    assert effects(read_facts(searched(tmp_path, AT_LEAST - 1, strong=1.0))) is None


def test_what_never_varies_has_no_effect(tmp_path: Path) -> None:
    run = searched(tmp_path, 20, strong=1.0)
    trials = run.study.get_trials()
    fixed = optuna.create_study(study_name="toy", direction="maximize")
    for name, value in run.study.user_attrs.items():
        fixed.set_user_attr(name, value)
    for trial in trials:
        same = {**trial.user_attrs, RECIPE: trials[0].user_attrs[RECIPE]}
        fixed.add_trial(create_trial(value=trial.value, user_attrs=same))
    assert effects(read_facts(Run(tmp_path, run.config, fixed, run.storage))) == []


def test_of_long_searches_and_long_recipes_a_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_facts(searched(tmp_path, 120, strong=1.0, weak=0.1))
    whole = [trial.number for trial in _chosen(facts, facts.scored)]
    assert whole == [trial.number for trial in facts.scored]
    longest = max(len(trial.user_attrs[RECIPE]) for trial in facts.scored)
    monkeypatch.setattr(importance, "CHARACTERS", 60 * longest)
    part = [trial.number for trial in _chosen(facts, facts.scored)]
    assert len(part) in (60, 61)
    assert len(set(part)) == len(part)
    assert facts.best is not None
    assert facts.best.number in part
    best = sorted(facts.scored, key=lambda trial: -(trial.value or 0.0))[:30]
    assert {trial.number for trial in best} <= set(part)
    found = effects(facts)
    assert found is not None
    assert max(found, key=lambda effect: effect.size).key == ("weight", "strong")
