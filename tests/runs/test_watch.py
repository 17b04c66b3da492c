"""`status --watch`, the pace, and the time left."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from evomerge.runs import watch as watching
from evomerge.runs.pace import LATEST, duration, pace_of
from evomerge.runs.run import Run
from evomerge.runs.status import status
from evomerge.runs.watch import BARS, WIDTH, Watch, sparkline, watch
from evomerge.search.study import RESULT, SCORED
from evomerge.search.workers import Workers
from tests.runs.conftest import Command
from tests.search.finals import Final

BEGAN = datetime(2026, 1, 1)


def ended(seconds: float, documents: int = 10, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    trial = create_trial(
        state=state, value=0.5 if state == TrialState.COMPLETE else None, user_attrs={SCORED: [documents, 40]}
    )
    trial.datetime_complete = BEGAN + timedelta(seconds=seconds)
    return trial


def drawn(picture: Any, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(picture)
    return console.export_text()


def opened(final: Final, folder: Path) -> Run:
    return Run(folder, final.config, final.run.study, final.run.storage)


@pytest.fixture
def final(tmp_path: Path) -> Final:
    made = Final(tmp_path)
    for weight in (0.1, 0.5, 0.4):
        made.add(weight, weight)
    return made


def test_the_pace_is_that_of_the_latest_trials() -> None:
    slow = [ended(-1000 + 10 * place) for place in range(LATEST)]
    fast = [ended(2.0 * place, documents=30) for place in range(LATEST)]
    assert pace_of([*slow, *fast]) == pytest.approx((30.0, 15.0))
    assert pace_of([]) is None
    assert pace_of([ended(0)]) is None
    assert pace_of([ended(0), ended(0)]) is None


def test_failed_trials_take_time_and_open_ones_do_not_count() -> None:
    trials = [ended(0), ended(6, documents=0, state=TrialState.FAIL), ended(12), create_trial(state=TrialState.RUNNING)]
    assert pace_of(trials) == pytest.approx((10.0, 10 / 12))


def test_a_night_without_the_search_is_not_in_the_pace() -> None:
    evening = [ended(3.0 * place) for place in range(6)]
    morning = [ended(30_000 + 3.0 * place) for place in range(6)]
    assert pace_of([*evening, *morning]) == pytest.approx((20.0, 10 / 3))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.6, "60 s"),
        (119.4, "119 s"),
        (120, "2 min 00 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_times_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_the_line_goes_from_the_lowest_to_the_highest(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == min(len(values), WIDTH)
    rising = sparkline(sorted(values))
    assert list(rising) == sorted(rising, key=BARS.index)
    if len(values) <= WIDTH and max(values) > min(values):
        assert line[values.index(max(values))] == BARS[-1]
        assert line[values.index(min(values))] == BARS[0]


def test_status_has_pace_and_time_left_while_it_is_known(final: Final, tmp_path: Path) -> None:
    run = opened(final, tmp_path)
    told = status(run)
    assert told["state"] == "stopped"
    assert told["left"] is None
    with run.held():
        told = status(run)
        assert told["state"] == "running"
        rate = told["rate"]["candidates"]
        assert rate > 0
        assert told["left"] == pytest.approx(60 * (20 - 3) / rate, rel=0.01, abs=0.1)
    final.run.study.set_user_attr(RESULT, final.compare())
    final.run.study.set_user_attr("evomerge:stopped", "no more to find")
    assert status(run)["left"] == 0.0


def test_a_look_shows_bar_line_workers_and_notes(final: Final, tmp_path: Path) -> None:
    run = opened(final, tmp_path)
    for number in range(6):
        run.events.note(f"note {number}")
    told, picture = Watch(run).look()
    text = drawn(picture)
    assert "3/20 trials" in text
    first, *_ = [trial.value for trial in run.study.get_trials()]
    assert f"{BARS[0]}{BARS[-1]}{BARS[-1]}  best {first:.4f} → {told['best']['objective']:.4f}" in text
    assert ["workers", "0"] in [line.split() for line in text.splitlines()]
    assert "note 1" not in text
    assert all(f"note {number}" in text for number in range(2, 6))


def test_workers_count_while_they_give_signs(final: Final, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(final, tmp_path)
    seen = Watch(run)
    here, elsewhere = (Workers(run.storage.engine, run.study.study_name) for _ in range(2))
    clock = [0.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock[0])
    here.beat()
    assert seen.workers() == 1
    elsewhere.beat()
    assert seen.workers() == 2
    clock[0] = watching.SILENT + 1
    here.beat()
    assert seen.workers() == 1
    elsewhere.beat()
    assert seen.workers() == 2


def test_it_watches_until_the_run_ends(final: Final, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(final, tmp_path)
    looks: list[float] = []
    holding = run.held()
    holding.__enter__()

    def passes(seconds: float) -> None:
        looks.append(seconds)
        final.add(0.2 + 0.1 * len(looks), 0.2)
        if len(looks) == 3:
            holding.__exit__(None, None, None)

    monkeypatch.setattr(watching.time, "sleep", passes)
    console = Console(width=120, file=io.StringIO(), force_terminal=True)
    watch(run, console)
    assert len(looks) == 3
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert [f"{count}/20 trials" in out for count in (3, 4, 5, 6)] == [True] * 4
    assert "stopped" in out


def interrupted(seconds: float) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_with_130_and_leaves_the_run_alone(
    finished: Path, evomerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = evomerge("status", finished, "--watch")
    assert said.code == 0
    assert "13/13 trials" in said.out
    monkeypatch.setattr(watching.time, "sleep", interrupted)
    monkeypatch.setattr(Run, "is_held", property(lambda run: True))
    said = evomerge("status", finished, "--watch")
    assert said.code == 130
    assert "Traceback" not in said.error


def test_watching_and_json_do_not_go_together(finished: Path, evomerge: Command) -> None:
    said = evomerge("status", finished, "--watch", "--json")
    assert said.code == 2
    assert "--watch or --json" in said.error
