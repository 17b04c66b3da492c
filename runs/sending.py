"""Sends what happens in a search to an experiment tracker, from a thread of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from evomerge.evaluators.types import TaskMetric
from evomerge.runs.tracking import Tracked, Tracker
from evomerge.search.curriculum import STAGE
from evomerge.search.listener import Listener, TrialOutcome
from evomerge.search.study import (
    SCORED,
    SECONDS,
    TASKS,
    complete_trials,
    is_estimated,
    study_tasks,
    trial_objective,
    trial_violation,
)
from evomerge.secrets import hide

if TYPE_CHECKING:
    from evomerge.runs.run import Run

MOST_PARAMETERS = 256  # numbers of one trial; trackers draw a chart for each

Message = Callable[[Tracker], None]


class Sending(Listener):
    """Sends each trial once, and the answer. A tracker that fails is dropped with one note.

    Args:
        name: the tracker's.
        open_it: opens it, in the thread.
        tracked: what it is opened for.
        run: whose trials are sent: what the study holds, whichever process scored it.
        tell: is told of a failure, in the thread that calls the listener.
        patience: seconds that `close` waits for what is left.
    """

    def __init__(
        self,
        name: str,
        open_it: Callable[[Tracked], Tracker],
        tracked: Tracked,
        run: Run,
        tell: Callable[[str], None],
        patience: float,
    ) -> None:
        self._name = name
        self._run = run
        self._tell = tell
        self._patience = patience
        self._sent = SentTrials(tracked.folder / f".{name}.sent", tracked.id)
        self._offered: set[int] = set()
        self._messages: SimpleQueue[Message | None] = SimpleQueue()
        self._trouble = ""
        self._has_told = False
        with self._guarded():
            self._offered = self._sent.numbers()
        self._thread = threading.Thread(target=self._work, args=(open_it, tracked), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def trial(self, outcome: TrialOutcome) -> None:
        """Send what has ended since the last one, in whichever process."""
        self._offer()

    def result(self, result: dict[str, Any]) -> None:
        """Send the answer."""
        self._offer()
        with self._guarded():
            values, texts = answer(result), {"folder": str(self._run.folder.resolve())}
            if (report := self._run.folder / "report.html").is_file():
                texts["report"] = str(report.resolve())
            self._messages.put(lambda tracker: tracker.conclude(values, texts))

    def close(self, why: str) -> None:
        """Send what is left, wait for that, and let go."""
        self._offer()
        self._messages.put(lambda tracker: tracker.close(why))
        self._messages.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._drop(f"it has not taken everything within {self._patience:g} s")
        self._say_trouble()

    def _offer(self) -> None:
        self._say_trouble()
        if self._trouble:
            return
        with self._guarded():
            self._offer_new()

    def _offer_new(self) -> None:
        tasks, trials = study_tasks(self._run.study), complete_trials(self._run.study)
        best = best_so_far(trials, tasks)
        for trial in trials:
            if trial.number not in self._offered:
                self._offered.add(trial.number)
                self._messages.put(self._message(trial.number, {**numbers(trial, tasks), **best[trial.number]}))
                self._note_what_stays(trial)

    def _message(self, number: int, values: Mapping[str, float]) -> Message:
        def send(tracker: Tracker) -> None:
            tracker.log(number, values)
            self._sent.add(number)

        return send

    def _note_what_stays(self, trial: FrozenTrial) -> None:
        if len(trial.params) > MOST_PARAMETERS and not self._has_told:
            self._has_told = True
            self._tell(
                f"tracker {self._name}: {len(trial.params)} numbers of each trial are more than {MOST_PARAMETERS} and "
                "are not sent; the study has them"
            )

    def _work(self, open_it: Callable[[Tracked], Tracker], tracked: Tracked) -> None:
        with self._guarded():
            opened = open_it(tracked)
            while (message := self._messages.get()) is not None:
                message(opened)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever a library, a server, a file or the database does here is no reason to stop a search."""
        try:
            yield
        except Exception as error:
            self._drop(f"{type(error).__name__}: {error}")

    def _drop(self, reason: str) -> None:
        self._trouble = self._trouble or hide(" ".join(reason.split()))[:300]

    def _say_trouble(self) -> None:
        if self._trouble and self._name:
            self._tell(f"tracker {self._name} is dropped: {self._trouble}")
            self._name = ""


class SentTrials:
    """The numbers of the trials that a tracker has, in a file of the run's folder; it outlives the process.

    A process that is killed between sending a trial and noting it sends that trial again.
    """

    def __init__(self, path: Path, study: str) -> None:
        self._path = path
        self._study = study

    def numbers(self) -> set[int]:
        """Of the trials that have been sent for this study."""
        first, *rest = self._lines() or [""]
        return {int(line) for line in rest if line.isdigit()} if first == self._study else set()

    def add(self, number: int) -> None:
        """Another trial has been sent. What the file has of another study goes."""
        if self._lines()[:1] != [self._study]:
            self._path.write_text(f"{self._study}\n", encoding="ascii")
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"{number}\n")

    def _lines(self) -> list[str]:
        return self._path.read_text(encoding="ascii", errors="replace").splitlines() if self._path.is_file() else []


def numbers(trial: FrozenTrial, tasks: Sequence[TaskMetric]) -> dict[str, float]:
    """What is sent of a trial: objective, each task, documents, seconds, the stage, and its parameters.

    A choice among names is sent as 1 under the chosen one. Parameters stay away where they are too many.
    """
    kept = trial.user_attrs
    told: dict[str, Any] = {
        "objective": trial_objective(trial, tasks),
        "estimated": is_estimated(trial),
        **{f"tasks/{task}": row["value"] for task, row in kept.get(TASKS, {}).items()},
        **{f"seconds/{part}": seconds for part, seconds in kept.get(SECONDS, {}).items()},
    }
    if SCORED in kept:
        told["documents"] = kept[SCORED][0]
    if STAGE in kept:
        told["stage"] = kept[STAGE]["index"]
    if len(trial.params) <= MOST_PARAMETERS:
        told |= dict(_parameters(trial.params))
    return {name: float(value) for name, value in told.items() if math.isfinite(value)}


def _parameters(params: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in params.items():
        is_number = isinstance(value, int | float)
        yield (f"parameters/{name}", float(value)) if is_number else (f"parameters/{name}={value}", 1.0)


def best_so_far(trials: Sequence[FrozenTrial], tasks: Sequence[TaskMetric]) -> dict[int, dict[str, float]]:
    """For each trial {"best": the highest objective up to it} of those scored in full that keep the constraints."""
    best, told = -math.inf, {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if not is_estimated(trial) and trial_violation(trial) == 0:
            best = max(best, trial_objective(trial, tasks))
        told[trial.number] = {"best": best} if math.isfinite(best) else {}
    return told


def answer(result: Mapping[str, Any]) -> dict[str, float]:
    """The comparison on untouched documents in flat numbers, with the ends of the 95 % intervals."""
    winner = result["winner"]
    told: dict[str, Any] = {
        "winner/number": winner["number"],
        "winner/objective": winner["objective"],
        **_ends("winner/objective", winner["interval"]),
        **{f"winner/tasks/{task}": row.get(result["split"]) for task, row in winner["tasks"].items()},
    }
    if result.get("shrinkage"):
        told |= {"winner/expected": result["shrinkage"]["expected"]}
    for name, row in result["baselines"].items():
        told |= {
            f"baselines/{name}/objective": row["objective"],
            f"baselines/{name}/gain": row["difference"],
            **_ends(f"baselines/{name}/gain", row["difference_interval"]),
        }
    return {name: float(value) for name, value in told.items() if value is not None and math.isfinite(value)}


def _ends(name: str, interval: Sequence[float]) -> dict[str, float]:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}
