"""What every tracker does: a new one joins by existing. What those of evomerge keep is read back."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from evomerge.errors import InputError
from evomerge.evaluators.types import TaskMetric
from evomerge.runs import sending
from evomerge.runs.lines import JsonLines
from evomerge.runs.run import Run, create_run, open_run
from evomerge.runs.sending import Sending, SentTrials
from evomerge.runs.trackers.mlflow import TAG, escaped, leaves
from evomerge.runs.tracking import TRACKERS, Tracked, check_trackers, open_trackers
from evomerge.search.config import SearchConfig, parse_config
from evomerge.search.listener import TrialOutcome

PATIENCE = 600.0  # seconds: nothing here depends on how long a library takes
SECRET = "hunter2-in-the-clear"
TASKS = (TaskMetric("reverse", "exact_match", "none", True, 1.0), TaskMetric("add [2,3]", "acc", "none", True, 1.0))
STRANGE = "weight/math, λ=0.5 [attention:1/3] 'a' \"b\""
RESULT: dict[str, Any] = {
    "split": "report",
    "winner": {
        "number": 2,
        "objective": 0.625,
        "interval": [0.5, 0.75],
        "tasks": {"reverse": {"metric": "exact_match", "search": 0.5, "report": 0.75}},
    },
    "shrinkage": {"expected": 0.6},
    "baselines": {
        "best sweep": {"objective": 0.5, "tasks": {}, "difference": 0.125, "difference_interval": [0.1, 0.15]}
    },
}


def config_with(trackers: list[str]) -> SearchConfig:
    raw = {
        "name": "tracked",
        "models": {"base": "a/base", "experts": ["a/math"]},
        "evaluate": {"tasks": ["reverse"], "system_instruction": "x" * 7000},
        "runtime": {"trackers": trackers},
    }
    return parse_config(raw, "test")


def add_trial(run: Run, objective: float, estimated: bool = False, violation: float = 0.0, numbers: int = 1) -> None:
    names = [STRANGE, *(f"weight/{index}" for index in range(numbers - 1))]
    attributes = {
        "tasks": {"reverse": {"metric": "exact_match", "value": objective}, "add [2,3]": {"metric": "acc", "value": 0}},
        "seconds": {"merge": 0.5, "score": 1.0, "sampler": 0.25},
        "scored": [30, 40],
        "stage": {"index": 1, "name": "module groups"},
        **({"estimated": True} if estimated else {}),
        **({"constraints": {"floor": violation}} if violation else {}),
    }
    trial = create_trial(
        value=objective,
        params={**dict.fromkeys(names, 0.25), "method": "ties"},
        distributions={
            **dict.fromkeys(names, FloatDistribution(0, 1)),
            "method": CategoricalDistribution(["ties", "linear"]),
        },
        user_attrs=attributes,
    )
    run.study.add_trial(trial)


def told(run: Run) -> TrialOutcome:
    number = len(run.study.trials) - 1
    return TrialOutcome(number, "sampler", 0.5)


class Life(NamedTuple):
    name: str
    folder: Path
    notes: list[str]
    id: str


@pytest.fixture(params=TRACKERS.names())
def life(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Life]:
    """A search that is stopped after two trials, goes on in another process, and ends with an answer."""
    folder = tmp_path / "run"
    notes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["evomerge", "run", "--storage", f"postgresql://user:{SECRET}@host/db"])
        run = create_run(config_with([request.param]), folder, TASKS)
        check_trackers(run.config)
        (listener,) = open_trackers(run, notes.append, PATIENCE)
        for objective in (0.25, 0.5):
            add_trial(run, objective)
            listener.trial(told(run))
        listener.close("interrupted")
        run = open_run(folder)
        (listener,) = open_trackers(run, notes.append, PATIENCE)
        add_trial(run, 0.75, estimated=True)
        add_trial(run, 0.875, violation=0.1)
        listener.trial(told(run))
        (folder / "report.html").write_text("report")
        listener.result(RESULT)
        listener.close("")
        yield Life(request.param, folder, notes, str(run.study.user_attrs["evomerge:tracking"]))


def test_a_tracker_follows_a_search_across_a_stop(life: Life) -> None:
    assert life.notes == []
    assert SentTrials(life.folder / f".{life.name}.sent", life.id).numbers() == {0, 1, 2, 3}
    for path in life.folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    if life.name in READERS:  # one of another distribution reads back what it writes
        found = READERS[life.name](life)
        assert found["objective"] == {0: 0.25, 1: 0.5, 2: 0.75, 3: 0.875}
        assert found["best"] == {0: 0.25, 1: 0.5, 2: 0.5, 3: 0.5}
        assert found["tasks/add [2,3]"] == dict.fromkeys(range(4), 0.0)
        assert found["documents"][3] == 30
        assert found[f"parameters/{STRANGE}"][0] == 0.25
        assert found["parameters/method=ties"][0] == 1
        assert set(found["result/winner/objective_low"].values()) == {0.5}
        assert set(found["result/baselines/best sweep/gain"].values()) == {0.125}


def read_tensorboard(life: Life) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(life.folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    texts = {name.removesuffix("/text_summary") for name in events.Tags()["tensors"]}
    assert {"config", "report", "folder", "stopped"} <= texts
    return {name: {each.step: each.value for each in events.Scalars(name)} for name in events.Tags()["scalars"]}


def read_mlflow(life: Life) -> dict[str, dict[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{life.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("evomerge")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.tags[TAG] == life.id
    assert found.data.tags["evomerge.report"] == str(life.folder / "report.html")
    assert found.info.status == "FINISHED"
    assert found.data.params["search.trials"] == "60"
    assert found.data.params["evaluate.system_instruction"] == "(7000 characters)"
    assert "mlflow.source.name" not in found.data.tags
    names = {escaped(name): name for name in EXPECTED}
    return {
        names.get(key, key): {each.step: each.value for each in client.get_metric_history(found.info.run_id, key)}
        for key in found.data.metrics
    }


EXPECTED = (
    *("tasks/add [2,3]", f"parameters/{STRANGE}", "parameters/method=ties"),
    "result/baselines/best sweep/gain",
)


def read_wandb(life: Life) -> dict[str, dict[int, float]]:
    """From the records that `wandb sync` sends."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, dict[int, float]] = {}
    files = sorted(life.folder.glob("wandb/offline-run-*/*.wandb"))
    assert [path.stem for path in files] == [f"run-{life.id}"] * 2
    for record in (Record.FromString(data) for path in files for data in wandb_records(path)):
        row = _items(record.history.item)
        for name, value in row.items():
            if "trial" in row and isinstance(value, int | float):
                found.setdefault(name, {})[row["trial"]] = value
        for name, value in _items(record.summary.update).items():
            if name.startswith("result/") and isinstance(value, int | float):
                found.setdefault(name, {})[0] = value
    return found


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a file of 7 bytes and LevelDB's log format: blocks of 32 KiB, of pieces with a header each."""
    data, record = path.read_bytes()[7:], b""
    place = 7
    while len(data) >= 7:
        left = 32768 - place % 32768
        if left < 7:
            data, place = data[left:], place + left
            continue
        _, size, kind = struct.unpack("<IHB", data[:7])
        record += data[7 : 7 + size]
        data, place = data[7 + size :], place + 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def _items(items: Any) -> dict[str, Any]:
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


READERS: dict[str, Callable[[Life], Mapping[str, Mapping[int, float]]]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
}


class Recording:
    """A tracker in memory; it fails at the trial `fails_at`, or takes no trial before `gate` says so."""

    def __init__(self, fails_at: int | None = None, seconds: float = 0.0) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.closed: list[str] = []
        self._fails_at = fails_at
        self._seconds = seconds

    def log(self, step: int, values: Mapping[str, float]) -> None:
        time.sleep(self._seconds)
        if step == self._fails_at:
            raise OSError(f"no way to http://user:{SECRET}@host:80/api\nafter 7 tries")
        self.rows[step] = dict(values)

    def conclude(self, values: Mapping[str, float], texts: Mapping[str, str]) -> None:
        self.rows[-1] = dict(values)

    def close(self, why: str) -> None:
        self.closed.append(why)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(config_with([]), tmp_path / "run", TASKS)


def send(run: Run, recording: Recording, notes: list[str], patience: float = PATIENCE) -> Sending:
    return Sending(
        "test", lambda _: recording, Tracked("0" * 32, "tracked", run.folder, {}), run, notes.append, patience
    )


def test_a_tracker_that_fails_is_dropped_with_one_note_without_credentials(run: Run) -> None:
    recording, notes = Recording(fails_at=1), []
    listener = send(run, recording, notes)
    for objective in (0.1, 0.2, 0.3):
        add_trial(run, objective)
        listener.trial(told(run))
    listener.result(RESULT)
    listener.close("")
    assert notes == ["tracker test is dropped: OSError: no way to http://***@host:80/api after 7 tries"]
    assert list(recording.rows) == [0]
    later, notes = Recording(), []
    send(run, later, notes).close("")
    assert list(later.rows) == [1, 2]
    assert notes == []


def test_a_tracker_that_cannot_be_opened_is_dropped(run: Run) -> None:
    def refuse(_: Tracked) -> Recording:
        raise ConnectionError("refused")

    notes: list[str] = []
    listener = Sending("test", refuse, Tracked("0" * 32, "tracked", run.folder, {}), run, notes.append, PATIENCE)
    add_trial(run, 0.1)
    listener.trial(told(run))
    listener.close("")
    assert notes == ["tracker test is dropped: ConnectionError: refused"]


def test_a_slow_tracker_holds_nothing_up_and_says_what_it_has_not_taken(run: Run) -> None:
    recording, notes = Recording(seconds=3600), []
    listener = send(run, recording, notes, patience=0.05)
    add_trial(run, 0.1)
    listener.trial(told(run))
    listener.close("")
    assert notes == ["tracker test is dropped: it has not taken everything within 0.05 s"]
    assert recording.rows == {}


def test_trials_of_other_processes_and_of_the_time_before_are_sent_once(run: Run) -> None:
    add_trial(run, 0.1)
    run.study.add_trial(create_trial(state=TrialState.FAIL))
    first, notes = Recording(), []
    listener = send(run, first, notes)
    add_trial(run, 0.2)
    add_trial(run, 0.3)
    listener.trial(told(run))
    listener.close("why")
    assert list(first.rows) == [0, 2, 3]
    assert first.closed == ["why"]
    second = Recording()
    send(run, second, notes).close("")
    assert second.rows == {}
    assert notes == []


def test_another_study_in_the_folder_is_sent_from_its_start(tmp_path: Path) -> None:
    SentTrials(tmp_path / "sent", "a").add(3)
    assert SentTrials(tmp_path / "sent", "a").numbers() == {3}
    assert SentTrials(tmp_path / "sent", "b").numbers() == set()
    for number in (1, 2):
        SentTrials(tmp_path / "sent", "b").add(number)
    assert SentTrials(tmp_path / "sent", "b").numbers() == {1, 2}


def test_too_many_parameters_stay_away_with_one_note(run: Run) -> None:
    recording, notes = Recording(), []
    listener = send(run, recording, notes)
    for objective in (0.1, 0.2):
        add_trial(run, objective, numbers=sending.MOST_PARAMETERS)
        listener.trial(told(run))
    listener.close("")
    assert [note.split(" are more ")[0] for note in notes] == ["tracker test: 257 numbers of each trial"]
    assert not any(name.startswith("parameters/") for name in recording.rows[0])
    assert recording.rows[1]["objective"] == 0.2


def test_a_database_that_is_gone_drops_the_tracker_and_raises_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, notes = Recording(), []
    listener = send(run, recording, notes)

    def gone(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError("gone")

    monkeypatch.setattr(sending, "complete_trials", gone)
    listener.trial(TrialOutcome(0, "sampler", 0.5))
    listener.close("")
    assert notes == ["tracker test is dropped: StorageInternalError: gone"]


def test_an_answer_of_another_form_drops_the_tracker_and_raises_nothing(run: Run) -> None:
    recording, notes = Recording(), []
    listener = send(run, recording, notes)
    listener.result({"winner": {}})
    listener.close("")
    assert notes == ["tracker test is dropped: KeyError: 'number'"]


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        (["wanbd"], "tracker must be one of mlflow, tensorboard, wandb, but got 'wanbd'; did you mean 'wandb'?"),
        (["mlflow", "mlflow"], "runtime.trackers must name each tracker once, but got 'mlflow' twice"),
    ],
)
def test_wrong_names_are_refused_before_anything_runs(trackers: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        check_trackers(config_with(trackers))


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed; pip install 'evomerge\[mlflow\]'"):
        check_trackers(config_with(["mlflow"]))


def test_nobody_is_asked_for_a_key(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    notes: list[str] = []
    opened = TRACKERS.get("wandb").open
    Sending("wandb", opened, Tracked("0" * 32, "tracked", run.folder, {}), run, notes.append, PATIENCE).close("")
    assert [note.partition(";")[0] for note in notes] == [
        "tracker wandb is dropped: EvomergeError: nobody is logged in"
    ]


def test_names_stay_apart_where_mlflow_escapes_them() -> None:
    names = ["a,b", "a;b", "a:b", "a:2Cb", "a b", "a/b", "λ=1"]
    assert len({escaped(name) for name in names}) == len(names)


def test_leaves_keep_every_value() -> None:
    tree = {"a": [1, {"b": None}], "c": {}, "d": [], "e": "x"}
    assert dict(leaves(tree)) == {"a.0": 1, "a.1.b": None, "c": {}, "d": [], "e": "x"}


def test_lines_of_json_say_what_a_bar_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines(sys.stderr) as lines:
        lines.note(f"a decision about postgresql://user:{SECRET}@host/db")
        lines.stage("search", 10, 3)
        lines.documents(40)
        lines.step()
        lines.trial(TrialOutcome(3, "sampler", 0.5, documents=40))
    text = capsys.readouterr().err
    assert SECRET not in text
    said = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in said] == ["note", "stage", "progress", "trial"]
    assert said[2] | {"time": 0} == {
        **{"time": 0, "event": "progress", "stage": "search"},
        **{"done": 4, "total": 10, "documents": 40},
    }
