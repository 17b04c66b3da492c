"""A study: an ordinary Optuna study that also remembers its configuration, its candidates and its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from evomerge.engine.recipe import Recipe
from evomerge.errors import InputError, unknown_name
from evomerge.evaluators.types import TaskMetric
from evomerge.plain import parse_json
from evomerge.search.config import SearchConfig, parse_config
from evomerge.search.constraints import total_violation
from evomerge.search.study_rows import add_study

CONFIG = "evomerge:config"
FINGERPRINT = "evomerge:fingerprint"
SAMPLER = "evomerge:sampler"
RESULT = "evomerge:result"
MEASURED = "evomerge:tasks"  # what is measured, as `study_tasks` reads it
SUBSET = "evomerge:subset"  # the documents that candidates are scored on, where they are not all
PROXY = "evomerge:proxy"  # how far stand-ins for metrics can be trusted

RECIPE = "recipe"
DIGEST = "digest"
ORIGIN = "origin"
REASON = "reason"
TASKS = "tasks"
SECONDS = "seconds"
ESTIMATED = "estimated"  # true: the trial was not scored on every document by the real metric; its values are estimates
PRUNED = "pruned"  # true: the trial was stopped before its last document
STDERR = "stderr"  # of an estimated objective, against the full score
CONSTRAINTS = "constraints"  # violation by the bound's name; kept where at most 0
NOTES = "notes"  # lines on the decisions behind a proposal
TOLD = "told"  # a count that orders trials by when they were told
NOISE = "noise"  # standard error of a full objective, its documents taken as a sample of all there might be
SCORED = "scored"  # [documents scored, documents that a full scoring takes]

_MAY_DIFFER = ("search.trials", "search.timeout", "search.stop", "search.compare", "runtime")


def create_study(storage: RDBStorage, config: SearchConfig, tasks: Sequence[TaskMetric]) -> optuna.Study:
    """A new study named after the configuration, which it keeps.

    Its directions are all "maximize": with the objective `pareto` one for each task with a weight, else one.

    Args:
        storage: the database.
        config: of the search.
        tasks: what is measured.

    Raises:
        InputError: when the database holds a study of that name, or `pareto` has fewer than two tasks with a weight.
    """
    directions = [StudyDirection.MAXIMIZE] * _count_objectives(config, tasks)
    try:
        kept = {CONFIG: config.model_dump(mode="json"), MEASURED: [_as_data(task) for task in tasks]}
        return add_study(storage, config.name, directions, kept)
    except optuna.exceptions.DuplicatedStudyError:
        raise InputError(
            f"the study's name must be new in its database, but {config.name!r} exists; rename the run, or resume that "
            f"one with --storage URL --study {config.name} --out DIR"
        ) from None


def _count_objectives(config: SearchConfig, tasks: Sequence[TaskMetric]) -> int:
    if config.evaluate.objective != "pareto":
        return 1
    counted = sum(task.weight > 0 for task in tasks)
    if counted < 2:
        raise InputError(f"objective must be mean or worst for one task, but got 'pareto' with {counted}")
    return counted


def _as_data(task: TaskMetric) -> dict[str, Any]:
    keys = ("task", "metric", "filter", "higher_is_better", "weight")
    return {key: getattr(task, key) for key in keys}


def study_tasks(study: optuna.Study) -> tuple[TaskMetric, ...]:
    """What the study measures, without the aggregations; () where it does not say.

    Raises:
        InputError: when the database's attribute is none of evomerge's.
    """
    try:
        return tuple(TaskMetric(**told) for told in study.user_attrs.get(MEASURED, []))
    except TypeError as error:
        raise InputError(f"study {study.study_name}: {MEASURED} must be a list of metrics, but {error}") from None


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
    """The configuration that a study was created with. Raises InputError when the database holds none."""
    stored = study.user_attrs[CONFIG]
    if not isinstance(stored, Mapping):
        raise InputError(f"study {study.study_name}: its configuration must be a mapping, but is {stored!r:.100}")
    return parse_config(dict(stored), f"study {study.study_name}")


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


def trial_recipe(trial: FrozenTrial) -> Recipe:
    """The recipe of a trial. Raises InputError when the trial failed before it had one, or the database's is torn."""
    if RECIPE not in trial.user_attrs:
        raise InputError(f"the trial must have a recipe, but trial {trial.number} has none ({trial.state.name})")
    said = f"trial {trial.number}: its recipe must be one"
    try:
        return Recipe.model_validate(parse_json(trial.user_attrs[RECIPE], said))
    except ValidationError as error:
        details = error.errors()[0]
        where = ".".join(map(str, details["loc"]))
        raise InputError(f"{said}, but {where}: {details['msg']}") from None


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that have values, estimated or not."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def running_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are under way, or were when their worker died."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def full_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were scored on every document by the real metric."""
    return [trial for trial in complete_trials(study) if not is_estimated(trial)]


def is_estimated(trial: FrozenTrial) -> bool:
    """Whether the trial's values stand for documents that it was not scored on by the real metric."""
    return bool(trial.user_attrs.get(ESTIMATED, False))


def trial_objective(trial: FrozenTrial, tasks: Sequence[TaskMetric]) -> float:
    """The one number that ranks a trial; higher is better.

    Args:
        trial: with values.
        tasks: what the study measures.

    Returns:
        Its value; of a trial with one value a task the mean of them by the weights of `tasks`, as
        `evaluators.objective.combine` has it.

    Raises:
        ValueError: the trial has no values, or several but not one for each task with a weight.
    """
    if not trial.values:
        raise ValueError(f"a trial must have values to be ranked, but trial {trial.number} has none")
    if len(trial.values) == 1:
        return float(trial.values[0])
    weights = [task.weight for task in tasks if task.weight > 0]
    total = sum(weight * value for weight, value in zip(weights, trial.values, strict=True))
    return float(total / sum(weights))


def trial_violation(trial: FrozenTrial) -> float:
    """How far the trial is beyond its bounds in all; 0: it keeps them (Deb 2000, section 3)."""
    return total_violation(trial.user_attrs.get(CONSTRAINTS, {}))


def best_of(trials: Sequence[FrozenTrial], tasks: Sequence[TaskMetric]) -> FrozenTrial:
    """The best of some trials by Deb's rule: the least violation, then the best objective, then the lowest number."""
    return min(trials, key=lambda trial: (trial_violation(trial), -trial_objective(trial, tasks), trial.number))


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, list):
        tree = {str(index): value for index, value in enumerate(tree)} if tree else {}
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
