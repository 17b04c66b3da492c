"""Starting a run, and going on with one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from evomerge.errors import EvomergeError
from evomerge.runs.events import Listeners
from evomerge.runs.run import Run, check_new, create_run
from evomerge.search.config import SearchConfig
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, build_problem
from evomerge.search.session import search
from evomerge.search.storage import open_storage
from evomerge.search.study import complete_trials


def start(config: SearchConfig, folder: Path, listener: Listener | None = None) -> Run:
    """A new run, to its end. Nothing is written before models, tasks and configuration have passed every check.

    Raises:
        InputError: when anything about the input is wrong.
        InterruptedRunError: on Ctrl-C or SIGTERM; the run can be resumed.
    """
    check_new(folder)
    if config.runtime.storage is not None:
        open_storage(config.runtime.storage).engine.dispose()
    problem = build_problem(config, _teller(listener))
    run = create_run(config, folder, problem.evaluator.tasks)
    _work(run, problem, listener, config.search.trials, config.search.timeout)
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
        InputError: when another process works on the run, or models or tasks have changed.
        InterruptedRunError: on Ctrl-C or SIGTERM; the run can be resumed.
    """
    config = run.config
    if memory_limit is not None:
        runtime = config.runtime.model_copy(update={"memory_limit": memory_limit})
        config = config.model_copy(update={"runtime": runtime})
    problem = build_problem(config, _teller(listener))
    search_config = run.config.search
    _work(run, problem, listener, trials or search_config.trials, timeout or search_config.timeout)


def _teller(listener: Listener | None) -> Callable[[str], None]:
    return (listener or Listener()).note


def _work(run: Run, problem: Problem, listener: Listener | None, trials: int, timeout: float | None) -> None:
    with run.held(), stop_on_signals() as stop:
        listeners = Listeners([run.events, *([listener] if listener else [])])
        run.events.write("begin", trials=trials)
        try:
            search(problem, run.study, run.storage.engine, listeners, stop, trials, timeout)
        except BaseException as error:
            _leave(run, error)
            raise
        run.write_best()
        run.events.write("end")


def _leave(run: Run, error: BaseException) -> None:
    """Note why a run stops early, and leave the best recipe so far."""
    run.events.write("stop", reason=type(error).__name__ if not isinstance(error, EvomergeError) else str(error))
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
