"""Starting a run, and going on with one: in this process, or with workers that it watches over."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from evomerge.errors import EvomergeError, InputError
from evomerge.runs.events import Listeners
from evomerge.runs.launchers.order import Order, device_of, threads_each
from evomerge.runs.run import Run, check_new, create_run
from evomerge.runs.trackers import check_trackers, open_trackers
from evomerge.search.config import SearchConfig
from evomerge.search.identity import note_versions
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, build_problem
from evomerge.search.rounds import open_round
from evomerge.search.session import search
from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.study import complete_trials


def start(config: SearchConfig, folder: Path, listener: Listener | None = None) -> Run:
    """A new run, to its end. Nothing is written before models, tasks and configuration have passed every check.

    Raises:
        InputError: when anything about the input is wrong.
        InterruptedRunError: on Ctrl-C or SIGTERM; the run can be resumed.
    """
    check_new(folder)
    check_trackers(config)
    _check_workers(config)
    if config.runtime.storage is not None:
        open_storage(config.runtime.storage).engine.dispose()
    problem = build_problem(config, _teller(listener), load=not _has_workers(config))
    run = create_run(config, folder, problem.evaluator.tasks)
    _forecast(run, problem, listener)
    _work(run, config, problem, listener, config.search.trials, config.search.timeout)
    return run


def go_on(
    run: Run,
    listener: Listener | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    memory_limit: str | None = None,
    workers: int | None = None,
) -> None:
    """Go on with a run until `trials` are finished in all, by default the configuration's number.

    `timeout`, `memory_limit` and `workers` replace the configuration's, too.

    Raises:
        InputError: when another process has launched the run, or models or tasks have changed.
        InterruptedRunError: on Ctrl-C or SIGTERM; the run can be resumed.
    """
    given = {"memory_limit": memory_limit, "workers": workers}
    changes = {key: value for key, value in given.items() if value is not None}
    config = run.config.model_copy(update={"runtime": run.config.runtime.model_copy(update=changes)})
    check_trackers(config)
    _check_workers(config)
    problem = build_problem(config, _teller(listener), load=not _has_workers(config))
    section = config.search
    _work(run, config, problem, listener, trials or section.trials, timeout or section.timeout)


def _teller(listener: Listener | None) -> Callable[[str], None]:
    return (listener or Listener()).note


def _has_workers(config: SearchConfig) -> bool:
    """Whether processes of their own do the work, and this one watches."""
    return config.runtime.workers > 1 or config.runtime.launcher == "ray"


def _check_workers(config: SearchConfig) -> None:
    """Raise InputError where workers cannot be placed as the configuration says."""
    if config.runtime.workers > 1:
        device_of(config.runtime, 0)
    if config.runtime.launcher == "ray":
        from evomerge.runs.launchers.cluster import require_ray

        require_ray()


def _work(
    run: Run, config: SearchConfig, problem: Problem, listener: Listener | None, trials: int, timeout: float | None
) -> None:
    why = ""
    with run.held(), stop_on_signals() as stop:
        shown = Listeners([run.events, *([listener] if listener else [])])
        listeners = Listeners([shown, *open_trackers(run, shown.note)])
        run.events.write("begin", trials=trials, workers=config.runtime.workers)
        try:
            note_versions(run.study, shown.note)
            if _has_workers(config):
                _with_workers(run, config, listeners, stop, trials, timeout)
            else:
                search(problem, run.study, run.storage.engine, listeners, stop, trials, timeout)
            _finish(run, listeners)
        except BaseException as error:
            why = str(error) if isinstance(error, EvomergeError) else type(error).__name__
            _leave(run, why)
            raise
        finally:
            listeners.close(why)


def _with_workers(
    run: Run, config: SearchConfig, listener: Listener, stop: StopRequest, trials: int, timeout: float | None
) -> None:
    """Let workers do the search, and watch over them."""
    from evomerge.engine.sharing import sweep
    from evomerge.runs.launchers.supervisor import supervise

    launcher = _launcher(run, config)
    orders = _orders(run, config, timeout)
    found = open_round(run.study, trials)
    sweep(run.folder / _SHARED)
    try:
        supervise(run, launcher, orders, found, listener, stop)
    finally:
        sweep(run.folder / _SHARED)


_SHARED = "shared"  # in the run's folder: weights that processes of one host share


def _launcher(run: Run, config: SearchConfig) -> Any:
    if config.runtime.launcher == "ray":
        from evomerge.runs.launchers.cluster import RayLauncher

        return RayLauncher(config.runtime, run.storage.engine.dialect.name)
    from evomerge.runs.launchers.processes import ProcessLauncher

    return ProcessLauncher(run.folder / "workers")


def _orders(run: Run, config: SearchConfig, timeout: float | None) -> list[Order]:
    """One for each worker; with Ray each has its device and its cores from the cluster."""
    runtime, count = config.runtime, config.runtime.workers
    is_here = runtime.launcher == "processes"
    storage = runtime.storage or sqlite_url(Path(str(run.storage.engine.url.database)))
    orders = []
    for index in range(count):
        device = device_of(runtime, index) if is_here else "auto" if runtime.device == "cuda" else runtime.device
        own = config.model_copy(update={"runtime": runtime.model_copy(update={"device": device, "storage": storage})})
        orders.append(
            Order(
                index=index,
                config=own.model_dump(mode="json"),
                storage=storage,
                threads=threads_each(count) if is_here else 1,
                neighbours=count if is_here else 1,
                shared=str(run.folder.resolve() / _SHARED) if is_here and count > 1 else None,
                timeout=timeout,
            )
        )
    return orders


def _forecast(run: Run, problem: Problem, listener: Listener | None) -> None:
    """Keep what was expected before the search, for a comparison with what happens."""
    from evomerge.runs.doctor.forecast import remember

    with _at_most_a_note(run, "no forecast is kept", _teller(listener)):
        remember(run, problem)


def _finish(run: Run, listener: Listener) -> None:
    """What a search leaves behind at its end; trouble with the report costs a note, never the run."""
    from evomerge.runs.doctor.forecast import remember_actual

    run.write_best()
    with _at_most_a_note(run, "the forecast is not compared with what happened", listener.note):
        remember_actual(run)
    with _at_most_a_note(run, "there is no report", listener.note):
        run.report()
    assert run.result is not None
    listener.result(run.result)
    run.events.write("end")


@contextmanager
def _at_most_a_note(run: Run, what: str, tell: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except (InputError, EvomergeError, OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        tell(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")


def _leave(run: Run, why: str) -> None:
    """Note why a run stops early, and leave the best recipe so far, as far as its database and its disk let it."""
    with contextlib.suppress(EvomergeError, OSError):
        run.events.write("stop", reason=why)
        if complete_trials(run.study):
            run.write_best()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM asks to stop at the next chunk of documents, a second one stops at once."""
    stop = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set:
            raise KeyboardInterrupt
        stop.set()

    previous: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread: whoever runs us there handles signals
            break
    try:
        yield stop
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
