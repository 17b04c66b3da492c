"""Samplers of Optuna's kind from anywhere: a class that lives in this process, brought up to date by replaying.

Its state is never stored. A new process shows it the whole history again, which costs about as much time as its
proposals cost before; in one process only the news are shown.
"""

from __future__ import annotations

import importlib
import inspect
import json
import weakref
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from evomerge.errors import InputError, unknown_name
from evomerge.search.mirror import is_warm_start, running_trials, whole_point
from evomerge.search.samplers.options import SECTION
from evomerge.search.samplers.whole import DRAWS, WholePointSampler, names_of, random_point
from evomerge.search.sampling import SamplerContext, finished_trials
from evomerge.spaces import METHOD

HUB = "optunahub"
_REPLAYS: weakref.WeakKeyDictionary[optuna.Study, dict[str, Replay]] = weakref.WeakKeyDictionary()


class _EndlessStudy(optuna.Study):
    """The search decides when it ends."""

    def stop(self) -> None:
        """A sampler that has tried everything says so; its points are then found to exist."""


class Replay:
    """One sampler and the study in memory that it works in.

    Each trial of the history is asked for again, in the order of telling. Where the answer is the recorded point, as
    it is with one worker, the sampler is told the recorded values; else, and for warm starts, the recorded point is
    enqueued and told, so that the sampler sees it as one of its own.

    Args:
        name: of the class, for messages.
        context: of any trial of the search.
        inner: the sampler.
        directions: of the objectives.
    """

    def __init__(
        self,
        name: str,
        context: SamplerContext,
        inner: BaseSampler,
        directions: list[optuna.study.StudyDirection],
    ) -> None:
        self._name = name
        self._context = context
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study(directions, "replay")
        self._study = _EndlessStudy("replay", storage, sampler=inner)
        self._told: set[int] = set()
        self._points: list[dict[str, Any]] = []
        self._pending: dict[int, Trial] = {}

    def catch_up(self, study: optuna.Study) -> None:
        """Show the sampler what has happened in the study since the last time."""
        for trial in finished_trials(study):
            if trial.number not in self._told:
                self._show(trial)
        for trial in running_trials(study):
            if trial.number not in self._pending:
                self._pending[trial.number] = self._recorded(trial)

    def ask(self, number: int) -> dict[str, Any] | None:
        """The sampler's point for trial `number`, of a candidate that is not there; None where it has none left."""
        for _ in range(DRAWS):
            trial, point = self._drawn()
            if self._active(point) not in self._points:
                self._points.append(self._active(point))
                self._pending[number] = trial
                return point
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _show(self, recorded: FrozenTrial) -> None:
        self._told.add(recorded.number)
        trial = self._pending.pop(recorded.number, None) or self._recorded(recorded)
        if recorded.state != TrialState.COMPLETE:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, violation in recorded.constraints.items():
            trial.set_constraint(name, violation)
        self._study.tell(trial, recorded.values)

    def _recorded(self, recorded: FrozenTrial) -> Trial:
        """A trial of the sampler's own with the recorded point."""
        point = whole_point(recorded)
        if not is_warm_start(recorded):
            if self.ask(recorded.number) == point:
                return self._pending.pop(recorded.number)
            asked = self._pending.pop(recorded.number, None)
            if asked is not None:
                self._points.remove(self._active(dict(asked.params)))
                self._study.tell(asked, state=TrialState.FAIL)
        self._study.enqueue_trial(point)
        trial, _ = self._drawn(point)
        if self._active(point) not in self._points:
            self._points.append(self._active(point))
        return trial

    def _active(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What the candidate depends on; points that differ elsewhere are the same one."""
        space = self._context.space
        if space is None:
            return dict(point)
        names = {METHOD, *(dimension.name for dimension in space.active(point))}
        return {name: value for name, value in point.items() if name in names}

    def _drawn(self, point: Mapping[str, Any] | None = None) -> tuple[Trial, dict[str, Any]]:
        """A new trial and its point; only the dimensions of `point` where one is enqueued."""
        space = self._context.distributions
        try:
            trial = self._study.ask()
            if point is None and METHOD in space:
                _suggest(trial, METHOD, space[METHOD])
            for name in names_of(self._context, dict(trial.params)) if point is None else point:
                _suggest(trial, name, space[name])
        except (ValueError, TypeError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"search.sampler must be able to search this space with {self._context.objectives} objective(s), "
                f"but {self._name} says: {reason}"
            ) from error
        return trial, dict(trial.params)


class ExternalSampler(WholePointSampler):
    """Proposes what the class would, had it seen the whole history in this process.

    Args:
        context: of one trial; its options are the class's keyword arguments.
        name: `package.module:Class` or `optunahub:PACKAGE:Class`.
    """

    def __init__(self, context: SamplerContext, name: str) -> None:
        super().__init__(context)
        self._name = name
        self._class = find_class(name)
        check_arguments(self._class, name, context.options)

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The class's next point; a uniform one where it gives only points that exist."""
        replay = self._replay(study)
        replay.catch_up(study)
        point = replay.ask(trial.number)
        if point is not None:
            return point
        self._context.explain(f"{self._name} proposes only points that exist: a random one is taken")
        return random_point(self._context, study, trial)

    def _replay(self, study: optuna.Study) -> Replay:
        context = self._context
        key = json.dumps([self._name, dict(context.options), context.run_seed], default=repr, sort_keys=True)
        replays = _REPLAYS.setdefault(study, {})
        if key not in replays:
            replays[key] = Replay(self._name, context, self._make(), list(study.directions))
        return replays[key]

    def _make(self) -> BaseSampler:
        options = dict(self._context.options)
        if "seed" in inspect.signature(self._class).parameters:
            options.setdefault("seed", self._context.run_seed)
        try:
            return self._class(**options)
        except (TypeError, ValueError) as error:
            raise InputError(f"{SECTION} must fit {self._name}, but it says: {' '.join(str(error).split())}") from error


def external(name: str, context: SamplerContext) -> BaseSampler:
    """The sampler of the class called `name`. Raises InputError when there is none or its options do not fit."""
    return ExternalSampler(context, name)


def find_class(name: str) -> type[BaseSampler]:
    """The class `package.module:Class`, or `optunahub:PACKAGE:Class` of a package in OptunaHub's registry.

    Raises:
        InputError: the module or the class is missing, or is no sampler of Optuna's kind.
    """
    place, _, attribute = name.rpartition(":")
    module = _hub_module(place) if place.startswith(f"{HUB}:") else _module(place)
    found = getattr(module, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, BaseSampler) and not inspect.isabstract(found)):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        samplers = [key for key in classes if issubclass(getattr(module, key), BaseSampler)]
        if found is None and samplers:
            raise unknown_name(f"the class of search.sampler in {place}", attribute, samplers)
        raise InputError(f"search.sampler must name a subclass of optuna.samplers.BaseSampler, but got {name!r}")
    return found


def check_arguments(found: type[BaseSampler], name: str, options: Mapping[str, Any]) -> None:
    """Raise InputError, with the nearest name, unless the class takes every option and lacks none."""
    parameters = inspect.signature(found).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    taken = [key for key, each in parameters.items() if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for key in options:
            if key not in taken:
                raise unknown_name(f"a key of {SECTION} for {name}", key, taken)
    for key in taken:
        if parameters[key].default is inspect.Parameter.empty and key not in options and key != "seed":
            raise InputError(f"{SECTION} must have the key {key!r} for {name}, but got {sorted(options)}")


def _module(place: str) -> Any:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        package = place.partition(".")[0]
        raise InputError(
            f"the module of search.sampler must be importable, but {place}: {error}; is {package} installed?"
        ) from error


def _hub_module(place: str) -> Any:
    package = place.removeprefix(f"{HUB}:")
    try:
        hub = importlib.import_module(HUB)
    except ImportError:
        raise InputError(
            f"search.sampler {place!r} must have the package {HUB}, but it is not installed; pip install {HUB}"
        ) from None
    try:
        return hub.load_module(package)
    except Exception as error:  # it goes through git, the network and the package's own imports
        raise InputError(
            f"{HUB} must be able to load {package!r}, but {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high)
    else:
        trial.suggest_int(name, 0, 1)
