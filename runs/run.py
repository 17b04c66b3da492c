"""A run: its folder, its study, and what can be asked of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from evomerge.engine.recipe import Recipe
from evomerge.errors import EvomergeError, InputError
from evomerge.evaluators.types import TaskMetric
from evomerge.runs.events import EventFile
from evomerge.runs.files import as_yaml, write_text
from evomerge.runs.remnants import CONFIG_FILE, DATABASE, clear_remnant, how_to_recover, is_remnant
from evomerge.search.config import SearchConfig, load_config
from evomerge.search.ledger import Ledger
from evomerge.search.presence import is_worked_on
from evomerge.search.storage import open_storage, public_url, quiet_optuna, sqlite_url
from evomerge.search.study import (
    DIGEST,
    RESULT,
    best_of,
    check_same_config,
    complete_trials,
    create_study,
    full_trials,
    open_study,
    study_config,
    study_tasks,
    trial_recipe,
)
from evomerge.search.trust import require_own_models, require_trusted

if TYPE_CHECKING:
    import pandas

LOCK = ".lock"
STORAGE_VARIABLE = "EVOMERGE_STORAGE"
"""In the environment: the database's URL with its password, which no file holds."""


class Run:
    """One search: a folder that holds its configuration, and a study in a database.

    `create_run`, `open_run` and `join_run` make one.

    Attributes:
        folder: with config.yaml, study.db (unless the storage is elsewhere), events.jsonl, best/recipe.yaml.
        config: as resolved when the run began.
        study: an ordinary Optuna study.
    """

    def __init__(self, folder: Path, config: SearchConfig, study: optuna.Study, storage: RDBStorage):
        self.folder = folder
        self.config = config
        self.study = study
        self.storage = storage
        self.events = EventFile(folder / "events.jsonl")

    @cached_property
    def ledger(self) -> Ledger:
        """The document scores."""
        return Ledger(self.storage.engine, self.study.study_name)

    @property
    def result(self) -> dict[str, Any] | None:
        """The comparison on untouched documents, once the search has ended; see `search.comparison.compare`."""
        found: dict[str, Any] | None = self.study.user_attrs.get(RESULT)
        return found

    @property
    def best(self) -> FrozenTrial:
        """The winner; before the search has ended, the best trial so far.

        That is the one with the highest objective of those that keep the constraints, or the least beyond them where
        none does. Trials that were scored in full come before estimated ones.

        Raises:
            EvomergeError: when no trial has a score yet.
        """
        if self.result is not None:
            return self.trial(self.result["winner"]["number"])
        scored = full_trials(self.study) or complete_trials(self.study)
        if not scored:
            raise EvomergeError(f"the run {self.folder} has no trial with a score yet")
        return best_of(scored, study_tasks(self.study))

    def trial(self, number: int) -> FrozenTrial:
        """The trial of that number. Raises InputError when there is none."""
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise InputError(f"the trial must be from 0 to {len(trials) - 1}, but got {number}")
        return trials[number]

    def recipe(self, number: int | None = None) -> Recipe:
        """The recipe of a trial, by default of the best. Raises InputError when it is not over the run's own models."""
        trial = self.best if number is None else self.trial(number)
        recipe = trial_recipe(trial)
        require_own_models(recipe, self.config, f"trial {trial.number}")
        return recipe

    def trials(self) -> pandas.DataFrame:
        """One row a trial, as Optuna's `trials_dataframe` gives it."""
        frame: pandas.DataFrame = self.study.trials_dataframe()
        return frame

    def scores(self) -> pandas.DataFrame:
        """Values of single documents: a row a trial, a column for each (task, document, metric); NaN: unscored."""
        import pandas

        digests = {
            trial.number: str(trial.user_attrs[DIGEST])
            for trial in self.study.get_trials(deepcopy=False)
            if DIGEST in trial.user_attrs
        }
        matrix = self.ledger.matrix(digests.values())
        rows = {number: matrix[digest] for number, digest in digests.items()}
        columns = sorted({column for row in rows.values() for column in row})
        index = pandas.MultiIndex.from_tuples(columns, names=["task", "document", "metric"])
        data = [[row.get(column, float("nan")) for column in columns] for row in rows.values()]
        return pandas.DataFrame(data, index=pandas.Index(rows, name="trial"), columns=index, dtype=float)

    def resume(self, trials: int | None = None, timeout: float | None = None) -> Run:
        """Go on until `trials` are finished in all (by default the configuration's number), and compare the winner."""
        from evomerge.runs.launch import go_on

        go_on(self, trials=trials, timeout=timeout)
        return self

    def export(self, to: str | Path, trial: int | None = None, **how: Any) -> Path:
        """Write the checkpoint of a trial, by default of the best, with its card and its provenance.

        Args:
            to: a new folder.
            trial: its number.
            how: further arguments of `runs.export.export_run`.
        """
        from evomerge.runs.export import export_run

        return export_run(self, Path(to), trial, **how)

    def report(self) -> Path:
        """Write RUN/report.html, one file that needs no network, and return its path."""
        from evomerge.runs.report.page import write_report

        return write_report(self)

    def write_best(self) -> None:
        """Write best/recipe.yaml."""
        write_text(self.folder / "best" / "recipe.yaml", as_yaml(self.recipe()))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run, so that no other process of this host launches it. Raises InputError when one does.

        Workers that join it need not hold it.
        """
        with _held(self.folder):
            yield

    @property
    def is_held(self) -> bool:
        """Whether a process works on the run, on this host or another.

        A process of another host shows it by counting up, which is waited for for up to five seconds.
        """
        return self._is_launched_here or is_worked_on(self.storage.engine, self.study.study_name)

    @property
    def _is_launched_here(self) -> bool:
        lock = FileLock(self.folder / LOCK)
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True


def create_run(config: SearchConfig, folder: Path, tasks: Sequence[TaskMetric]) -> Run:
    """A new run in a new or empty folder.

    Args:
        config: of the search.
        folder: absent or empty.
        tasks: what is measured.

    Raises:
        InputError: when the folder holds a run or anything else, or the database has a study of that name.
    """
    check_new(folder)
    quiet_optuna()
    kept = _without_password(config)
    made = _make(folder)
    try:
        with _held(folder):  # or two launches would clear each other's beginnings
            check_new(folder)
            clear_remnant(folder)
            storage = open_storage(config.runtime.storage or sqlite_url(folder / DATABASE))
            study = create_study(storage, kept, tasks)
            write_text(folder / CONFIG_FILE, as_yaml(kept))  # which makes it a run
    except InputError:
        if made and is_remnant(folder):
            clear_remnant(folder)
            (folder / LOCK).unlink()
            _unmake(made)
        raise
    return Run(folder, config, study, storage)


def check_new(folder: Path) -> None:
    """Raise InputError unless a run can be made in `folder`; leaves it as it is.

    It has to be writable, and absent, empty, or what a launch left that was killed before its run was complete.
    """
    if folder.is_dir() and not (folder / CONFIG_FILE).exists() and is_remnant(folder):
        _check_writable(folder)
        return
    if (folder / CONFIG_FILE).exists() or (folder / DATABASE).exists():
        raise InputError(f"the output folder must be new, but {folder} holds a run; resume it, or name another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"the output folder must be new or empty, but {folder} is not; name another --out")
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    made = _make(folder)
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from None
    finally:
        _unmake(made)


def _make(folder: Path) -> list[Path]:
    """Make the folder, and return what was made for it, the innermost first. Raises InputError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _unmake(missing)
        raise _not_writable(folder, error) from None
    return missing


def _unmake(made: Sequence[Path]) -> None:
    """Remove folders that are still empty."""
    for each in made:
        with suppress(OSError):
            each.rmdir()


def _not_writable(folder: Path, error: OSError) -> InputError:
    return InputError(f"the output folder must be writable, but {folder}: {error.strerror}")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=1)  # whoever asks for the state holds it for a moment
    except Timeout:
        raise InputError(
            f"a run must not be launched twice at a time, but a process holds {folder}; `evomerge worker {folder}` "
            f"joins it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def open_run(path: str | Path) -> Run:
    """The run in a folder.

    Raises:
        InputError: when the folder holds no run, or its configuration is not the one that its study began with.
    """
    folder = Path(path)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"a run must be a folder with {CONFIG_FILE}, but {folder} has none{how_to_recover(folder)}")
    config = load_config(folder / CONFIG_FILE)
    quiet_optuna()
    if config.runtime.storage is None and not (folder / DATABASE).is_file():
        raise InputError(f"a run must have its {DATABASE}, but {folder} has none")
    config = _with_password(config)
    storage = open_storage(config.runtime.storage or sqlite_url(folder / DATABASE))
    study = open_study(storage, config.name)
    check_same_config(study_config(study), config)
    return Run(folder, config, study, storage)


def join_run(url: str, name: str, folder: Path, trusted: Collection[str] = ()) -> Run:
    """A run from its study alone: the folder is made, or must belong to the same study.

    Args:
        url: of the database.
        name: of the study.
        folder: of the run, absent, empty or a run's.
        trusted: code and files that a configuration from the database may run and read; where the folder holds the same
            configuration, that is the user's own word.

    Raises:
        InputError: when the database or the study is not there, the folder holds something else, or the configuration
            wants something that is not named.
    """
    if (folder / CONFIG_FILE).is_file():
        own = load_config(folder / CONFIG_FILE)
        config, storage = join_study(url, name, None)
        check_same_config(config, own)
    else:
        config, storage = join_study(url, name, trusted)
        check_new(folder)
        write_text(folder / CONFIG_FILE, as_yaml(_without_password(config)))
    return Run(folder, config, open_study(storage, name), storage)


def join_study(url: str, name: str, trusted: Collection[str] | None) -> tuple[SearchConfig, RDBStorage]:
    """The configuration of a study, as this host reaches it, and its database.

    Args:
        url: of the database.
        name: of the study.
        trusted: as in `join_run`; None: nothing need be named.

    Raises:
        InputError: when the database or the study is not there, or the configuration wants something that is not named.
    """
    quiet_optuna()
    storage = open_storage(url)
    config = study_config(open_study(storage, name))
    if trusted is not None:
        require_trusted(config, trusted, f"study {name}")
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"storage": url})}), storage


def _with_password(config: SearchConfig) -> SearchConfig:
    """The configuration with the database's URL that the environment has, if that is the same but for its password."""
    url = os.environ.get(STORAGE_VARIABLE)
    if url is None or config.runtime.storage is None or public_url(url) != public_url(config.runtime.storage):
        return config
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"storage": url})})


def _without_password(config: SearchConfig) -> SearchConfig:
    if config.runtime.storage is None:
        return config
    runtime = config.runtime.model_copy(update={"storage": public_url(config.runtime.storage)})
    return config.model_copy(update={"runtime": runtime})
