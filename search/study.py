"""A study: an ordinary Optuna study that also remembers its configuration, its candidates and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from evomerge.engine.recipe import Recipe
from evomerge.errors import InputError, unknown_name
from evomerge.search.config import SearchConfig, parse_config

CONFIG = "evomerge:config"
FINGERPRINT = "evomerge:fingerprint"
SAMPLER = "evomerge:sampler"
RESULT = "evomerge:result"

RECIPE = "recipe"
DIGEST = "digest"
ORIGIN = "origin"
REASON = "reason"
TASKS = "tasks"
SECONDS = "seconds"

_MAY_DIFFER = ("search.trials", "search.timeout", "runtime")


def create_study(storage: RDBStorage, config: SearchConfig) -> optuna.Study:
    """A new study named after the configuration, which it keeps.

    Raises:
        InputError: when the database holds a study of that name.
    """
    try:
        study = optuna.create_study(storage=storage, study_name=config.name, direction="maximize")
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(
            f"the study's name must be new in its database, but {config.name!r} exists; resume it or rename the run"
        ) from None
    study.set_user_attr(CONFIG, config.model_dump(mode="json"))
    return study


def open_study(storage: RDBStorage, name: str) -> optuna.Study:
    """The study called `name`. Raises InputError with the nearest name when there is none."""
    names = optuna.get_all_study_names(storage)
    if name not in names:
        if not names:
            raise InputError(f"the database must hold the study {name!r}, but it holds none")
        raise unknown_name("the study", name, names)
    study = optuna.load_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler())
    if CONFIG not in study.user_attrs:
        raise InputError(f"the study must be one of evomerge's, but {name!r} has no configuration")
    return study


def study_config(study: optuna.Study) -> SearchConfig:
    """The configuration that a study was created with."""
    return parse_config(dict(study.user_attrs[CONFIG]), f"study {study.study_name}")


def check_same_config(stored: SearchConfig, given: SearchConfig) -> None:
    """Raise InputError, naming the keys, unless the configurations agree in all that decides a candidate's score."""
    old, new = _flat(stored.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    differ = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_MAY_DIFFER)
    ]
    if differ:
        said = "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in differ)
        raise InputError(f"a study must be resumed with its own configuration, but {said}")


def check_same_inputs(study: optuna.Study, fingerprint: Mapping[str, str]) -> None:
    """Raise InputError, naming them, unless models and tasks are what they were when the study began."""
    stored = study.user_attrs.get(FINGERPRINT)
    if stored is None:
        study.set_user_attr(FINGERPRINT, dict(fingerprint))
        return
    changed = [key for key in sorted({*stored, *fingerprint}) if stored.get(key) != fingerprint.get(key)]
    if changed:
        raise InputError(
            f"models and tasks must be those the study began with, but these have changed: {', '.join(changed)}"
        )


def trial_recipe(trial: FrozenTrial) -> Recipe:
    """The recipe of a trial. Raises InputError when the trial failed before it had one."""
    if RECIPE not in trial.user_attrs:
        raise InputError(f"the trial must have a recipe, but trial {trial.number} has none ({trial.state.name})")
    return Recipe.model_validate(json.loads(trial.user_attrs[RECIPE]))


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have a score."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, list):
        tree = {str(index): value for index, value in enumerate(tree)} if tree else {}
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
