"""Joining a search that somebody else has launched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from evomerge.errors import InputError
from evomerge.runs.events import Listeners
from evomerge.runs.run import join_study, open_run
from evomerge.search.config import SearchConfig
from evomerge.search.identity import check_same_inputs, check_same_versions
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.search.messages import Poster
from evomerge.search.places import Places
from evomerge.search.problem import build_problem
from evomerge.search.rounds import current_round, is_over
from evomerge.search.session import work
from evomerge.search.study import RESULT, open_study
from evomerge.search.trust import require_trusted


def join(
    run: Path | None,
    storage: str | None,
    study: str | None,
    listener: Listener,
    *,
    device: str | None = None,
    memory_limit: str | None = None,
    paths: Sequence[str] = (),
    trusted: Sequence[str] = (),
) -> dict[str, Any]:
    """Work on a study until it has its result.

    Args:
        run: the run's folder; None: the study is known by its database alone.
        storage: the database's URL.
        study: the study's name.
        listener: is told what this worker sees.
        device: in place of the configuration's, where any GPU will do.
        memory_limit: of this host.
        paths: `OLD=NEW`: models and task files below the folder OLD of the configuration lie below NEW here.
        trusted: code and files, as they are called here, that a configuration from a database alone may run and read.

    Returns:
        {study, documents: scored by this worker, winner: {number, objective}}; both of the winner are those of the
        comparison.

    Raises:
        InputError: the study is not there or nobody has launched it; or this worker would give other scores, its
            models, tasks or versions being others than the study's.
        InterruptedRunError: on Ctrl-C or SIGTERM; what it has scored is kept, and others go on.
    """
    from evomerge.runs.launch import stop_on_signals

    places = Places(paths)
    if run is not None:
        opened = open_run(run)
        config, database, name = opened.config, opened.storage, opened.study.study_name
    else:
        assert storage is not None
        assert study is not None
        config, database = join_study(storage, study, None)
        name = study
        require_trusted(places.config(config) if places else config, trusted, f"study {name}")
    runtime = config.runtime
    given = {"device": device or _elsewhere(runtime.device), "memory_limit": memory_limit}
    config = config.model_copy(update={"runtime": runtime.model_copy(update=given)})
    counted = _Count()
    with stop_on_signals() as stop:
        listeners = Listeners([listener, counted])
        result = enter(config, database, listeners, stop, places=places, tells_of_models=False)
    winner = {key: result["winner"][key] for key in ("number", "objective")}
    return {"study": name, "documents": counted.scored, "winner": winner}


def enter(
    config: SearchConfig,
    storage: RDBStorage,
    listener: Listener,
    stop: StopRequest,
    *,
    tells_of_models: bool,
    places: Places | None = None,
    timeout: float | None = None,
    shared: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Check that this process would give the study's scores, load the models, and work until there is a result.

    Args:
        config: of the study, with what is to be used on this host.
        storage: that holds the study.
        listener: is told what this worker sees; whoever shows the search's progress is told the rest.
        stop: a request to stop.
        tells_of_models: whether what is told of the models and of memory is passed on to them, too.
        places: where models and task files lie here.
        timeout: seconds after which no further trial is begun.
        shared: as in `build_problem`.
        workers: as in `build_problem`.

    Returns, raises:
        As `session.work`; InputError, too, when versions differ from the study's.
    """
    study = open_study(storage, config.name)
    found = current_round(study)
    if found is None:
        raise InputError(f"a worker must join a study that was launched by run or resume, but {config.name!r} was not")
    if is_over(study, found):
        return dict(study.user_attrs[RESULT])
    poster = Poster(storage.engine, study.study_name)
    both = Listeners([listener, poster])
    check_same_versions(study, both.note)
    tell: Callable[[str], None] = both.note if tells_of_models else listener.note
    problem = build_problem(config, tell, load=False, places=places, shared=shared, workers=workers)
    check_same_inputs(study, problem.fingerprint())
    problem.merger.load()
    try:
        return work(problem, study, storage.engine, both, stop, timeout)
    finally:
        poster.close("")


def _elsewhere(device: str) -> str:
    """The device that fits any host: which of the launching host's GPUs it was says nothing here."""
    return "cuda" if device.startswith("cuda") else device


class _Count(Listener):
    def __init__(self) -> None:
        self.scored = 0

    def documents(self, scored: int) -> None:
        self.scored += scored
