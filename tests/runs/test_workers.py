"""Runs with several workers: who watches over them, who joins from elsewhere, and who is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.errors import EvomergeError, InputError, InterruptedRunError
from evomerge.runs import launch
from evomerge.runs.events import read_events
from evomerge.runs.joining import join
from evomerge.runs.launchers import cluster, order, supervisor
from evomerge.runs.launchers.order import Order, Outcome, device_of, threads_each
from evomerge.runs.launchers.supervisor import supervise
from evomerge.runs.run import Run, create_run, open_run
from evomerge.runs.status import status
from evomerge.search.config import RuntimeConfig, load_config
from evomerge.search.interrupt import StopRequest
from evomerge.search.listener import Listener
from evomerge.search.problem import build_problem
from evomerge.search.rounds import open_round
from evomerge.search.study import DIGEST, TOLD
from tests.runs.conftest import CONFIG, EXAMPLE, SMALL, Command, start_process
from tests.search.toy import ToyEvaluator, toy_config

TINY = ["evaluate.limit=40", "search.finalists=2", "search.sampler=random", "runtime.device=cpu"]


class Notes(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class FakeHandle:
    where = "nowhere.log"

    def __init__(self, outcome: Outcome | None) -> None:
        self.told = outcome
        self.calls: list[str] = []

    def outcome(self) -> Outcome | None:
        return self.told

    def stop(self) -> None:
        self.calls.append("stop")
        self.told = Outcome(130)

    def kill(self) -> None:
        self.calls.append("kill")


class FakeLauncher:
    """Gives each worker the outcomes of its starts, one after another; None: it runs until it is stopped."""

    def __init__(self, *outcomes: list[Outcome | None]) -> None:
        self._outcomes = [iter(each) for each in outcomes]
        self.handles: list[FakeHandle] = []
        self.is_closed = False

    def start(self, order: Order) -> FakeHandle:
        self.handles.append(FakeHandle(next(self._outcomes[order.index])))
        return self.handles[-1]

    def close(self) -> None:
        self.is_closed = True


class TestSupervisor:
    """Workers that die are started again, a few times; what would end the same way is not tried again."""

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.01)

    @pytest.fixture
    def run(self, tmp_path: Path) -> Run:
        return create_run(toy_config(), tmp_path / "run", ToyEvaluator().tasks)

    @staticmethod
    def watch(run: Run, launcher: FakeLauncher, workers: int, stop: StopRequest | None = None) -> list[str]:
        notes = Notes()
        orders = [Order(index, {}, "", 1, workers) for index in range(workers)]
        supervise(run, launcher, orders, open_round(run.study, 5), notes, stop or StopRequest())
        return notes.lines

    def test_one_that_dies_is_started_again_and_given_up_in_the_end(self, run: Run) -> None:
        died = Outcome(-9, "killed by SIGKILL")
        launcher = FakeLauncher([died] * 10, [Outcome(1, "it broke"), Outcome(0)])
        with pytest.raises(EvomergeError, match="none is left: killed by SIGKILL; it broke"):
            self.watch(run, launcher, 2)
        assert len(launcher.handles) == 4 + 2
        assert launcher.is_closed

    def test_its_deaths_are_told(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "is_over", lambda study, found: True)
        died = Outcome(1, "it broke")
        lines = self.watch(run, FakeLauncher([died] * 4, [Outcome(0)]), 2)
        again = "worker 0 has died and is started again: it broke; see nowhere.log"
        assert lines == [again, again, again, "worker 0 is given up after 4 starts: it broke; see nowhere.log"]

    def test_an_error_that_is_the_search_s_own_is_not_tried_again(self, run: Run) -> None:
        launcher = FakeLauncher([Outcome(1, "every trial failed", is_final=True)])
        with pytest.raises(EvomergeError, match="every trial failed"):
            self.watch(run, launcher, 1)
        assert len(launcher.handles) == 1

    def test_wrong_input_ends_the_others(self, run: Run) -> None:
        launcher = FakeLauncher([None], [Outcome(2, "other weights", is_final=True)])
        with pytest.raises(InputError, match="other weights"):
            self.watch(run, launcher, 2)
        assert [handle.calls for handle in launcher.handles] == [["kill"], []]
        assert launcher.is_closed

    def test_a_request_to_stop_is_passed_on_and_waited_for(self, run: Run) -> None:
        launcher, stop = FakeLauncher([None], [None]), StopRequest()
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(InterruptedRunError):
            self.watch(run, launcher, 2, stop)
        assert [handle.calls for handle in launcher.handles] == [["stop"], ["stop"]]

    def test_one_that_is_started_again_has_the_rest_of_the_time(self) -> None:
        assert Order(0, {}, "", 1, 1, timeout=60).within(50).timeout == 10
        assert Order(0, {}, "", 1, 1, timeout=60).within(70).timeout == 0
        assert Order(0, {}, "", 1, 1).within(70).timeout is None


class TestPlacing:
    """One GPU each, in turns; on the CPU a share of the cores."""

    @pytest.mark.parametrize(
        ("device", "gpus", "expected"),
        [
            ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
            ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2"]),
            ("cuda:1", 2, ["cuda:1"] * 3),
            ("auto", 0, ["auto"] * 3),
            ("cpu", 2, ["cpu"] * 3),
        ],
    )
    def test_devices(self, device: str, gpus: int, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        assert [device_of(RuntimeConfig(device=device, workers=3), index) for index in range(3)] == expected

    @pytest.mark.parametrize(("workers", "threads"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
    def test_threads(self, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(order, "cores", lambda: 8)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert threads_each(workers) == threads
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert threads_each(workers) == min(threads, 3)

    @pytest.mark.parametrize(("quota", "expected"), [("max 100000", 4), ("250000 100000", 2), ("1000 100000", 1)])
    def test_a_container_s_quota_counts(
        self, quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
        (tmp_path / "cpu.max").write_text(quota + "\n")
        assert order.cores(tmp_path / "cpu.max") == expected
        assert order.cores(tmp_path / "none") == 4

    @pytest.mark.parametrize(
        ("nodes", "device", "workers", "expected"),
        [
            ([{"CPU": 8}], "cpu", 2, {"num_gpus": 0, "num_cpus": 4}),
            ([{"CPU": 8}, {"CPU": 4}], "auto", 3, {"num_gpus": 0, "num_cpus": 4}),
            ([{"CPU": 5}, {"CPU": 5}], "auto", 3, {"num_gpus": 0, "num_cpus": 2}),
            ([{"CPU": 8, "GPU": 2}], "auto", 2, {"num_gpus": 1, "num_cpus": 1}),
            ([{"CPU": 8, "GPU": 2}], "auto", 3, "at most the 2 GPUs of the cluster, but got 3"),
            ([{"CPU": 2}], "auto", 3, "at most the 2 cores of the cluster, but got 3"),
        ],
    )
    def test_room_on_a_cluster(self, nodes: Any, device: str, workers: int, expected: Any) -> None:
        launcher = cluster.RayLauncher.__new__(cluster.RayLauncher)
        launcher._ray = FakeRay(nodes)
        runtime = RuntimeConfig(device=device, workers=workers, launcher="ray")
        if isinstance(expected, str):
            with pytest.raises(InputError, match=expected):
                launcher._room(runtime, "postgresql")
        else:
            assert launcher._room(runtime, "postgresql") == expected

    def test_hosts_that_share_no_disk_share_no_sqlite(self) -> None:
        launcher = cluster.RayLauncher.__new__(cluster.RayLauncher)
        launcher._ray = FakeRay([{"CPU": 2}, {"CPU": 2}])
        with pytest.raises(InputError, match="all hosts reach, such as PostgreSQL, but got SQLite for 2 hosts"):
            launcher._room(RuntimeConfig(workers=2, launcher="ray"), "sqlite")


def test_ray_that_is_not_installed_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evomerge: Command
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = evomerge("run", CONFIG, "--out", tmp_path / "run", "--set", "runtime.launcher=ray")
    assert said.code == 2
    assert "pip install 'evomerge[ray]'" in said.error
    assert list(tmp_path.iterdir()) == []


class FakeRay:
    def __init__(self, resources: list[dict[str, int]]) -> None:
        self._nodes = [{"Alive": True, "Resources": each} for each in resources] + [{"Alive": False, "Resources": {}}]

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes


def check_whole(run: Run, trials: int) -> None:
    """Every trial has ended once, every document was scored once a recipe, and there is an answer."""
    found = run.study.get_trials()
    assert [trial.number for trial in found] == list(range(trials))
    assert sorted(trial.user_attrs[TOLD] for trial in found) == list(range(trials))
    assert {trial.state.name for trial in found} == {"COMPLETE"}
    assert run.result is not None
    winner = run.trial(run.result["winner"]["number"])
    assert run.ledger.scores(str(winner.user_attrs[DIGEST]), "report")


def wait_until(condition: Callable[[], bool], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.05)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == kind]


def workers_of(process: int, called: str = "evomerge.runs.launchers.child") -> list[int]:
    """The processes below one, whose command lines hold `called`, that are alive."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)

    def is_below(number: int) -> bool:
        return number == process or (number in parents and is_below(parents[number]))

    def command(number: int) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{number}/cmdline").read_text().replace(chr(0), " ")
        return ""

    return sorted(number for number in parents if number != process and called in command(number) and is_below(number))


@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_two_processes_end_with_one_answer_though_one_is_killed(is_killed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = load_config(CONFIG, [*TINY, "search.trials=13", "runtime.workers=2"])
    seen: list[Any] = []

    def look() -> None:
        wait_until(lambda: bool(events(folder, "trial")))
        seen.extend([workers_of(os.getpid()), status(open_run(folder))["state"]])
        if is_killed:
            os.kill(seen[0][0], signal.SIGKILL)

    watcher = threading.Thread(target=look)
    watcher.start()
    run = launch.start(config, folder)
    watcher.join()
    check_whole(run, 13)
    assert (len(seen[0]), seen[1]) == (2, "running")
    assert workers_of(os.getpid()) == []
    assert sorted(event["number"] for event in events(folder, "trial")) == list(range(13))
    stages = [event["name"] for event in events(folder, "stage")]
    assert stages[0] == "search"
    assert {"select", "report"} <= set(stages)
    deaths = [event["text"] for event in events(folder, "note") if "has died and is started again" in event["text"]]
    assert ["killed by SIGKILL" in death for death in deaths] == [True] * is_killed
    assert (folder / "report.html").is_file()
    assert {path.name for path in (folder / "workers").iterdir()} == {"0.log", "1.log"}
    assert status(open_run(folder))["state"] == "finished"


class TestJoining:
    """A worker that finds the models elsewhere."""

    @pytest.fixture
    def launched(self, tmp_path: Path) -> tuple[Path, Path]:
        """A run that was launched by a host on which the models lie elsewhere, and where they lie here."""
        there, here = tmp_path / "there", tmp_path / "here"
        for name in ("models", "tasks"):
            shutil.copytree(EXAMPLE / name, there / name)
        raw = yaml.safe_load(Path(CONFIG).read_text())
        raw["models"] = {"base": "models/base", "experts": ["models/reverse", "models/add"]}
        raw["evaluate"]["include_path"] = "tasks"
        (there / "search.yaml").write_text(yaml.safe_dump(raw))
        settings = [*TINY, "search.trials=4", "search.warm_start=[experts]"]
        config = load_config(there / "search.yaml", settings)
        problem = build_problem(config, load=False)
        run = create_run(config, tmp_path / "run", problem.evaluator.tasks)
        from evomerge.search.identity import check_same_inputs, note_versions

        check_same_inputs(run.study, problem.fingerprint())
        note_versions(run.study, lambda line: None)
        open_round(run.study, 4)
        there.rename(here)
        return run.folder, here

    def test_it_finishes_the_search_with_the_paths_of_the_launching_host(
        self, launched: tuple[Path, Path], tmp_path: Path
    ) -> None:
        folder, here = launched
        with pytest.raises(InputError):
            join(folder, None, None, Listener())
        told = join(folder, None, None, Listener(), paths=[f"{tmp_path / 'there'}={here}"])
        run = open_run(folder)
        check_whole(run, 4)
        assert run.result is not None
        assert told["winner"]["number"] == run.result["winner"]["number"]
        assert told["documents"] > 0
        assert {str(run.recipe(number).base.model) for number in range(4)} == {str(tmp_path / "there/models/base")}
        assert join(folder, None, None, Listener(), paths=["/a=/b"])["documents"] == 0

    def test_other_weights_are_refused_with_both_digests(self, launched: tuple[Path, Path], tmp_path: Path) -> None:
        folder, here = launched
        weights = here / "models" / "add" / "model.safetensors"
        tensors = {name: tensor * 2 for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
        with pytest.raises(InputError, match=r"models\.experts add \(was [0-9a-f]{12}, is [0-9a-f]{12}\)"):
            join(folder, None, None, Listener(), paths=[f"{tmp_path / 'there'}={here}"])
        assert open_run(folder).study.get_trials() == []

    def test_a_study_from_a_database_alone_reads_nothing_that_is_not_named(
        self, launched: tuple[Path, Path], tmp_path: Path
    ) -> None:
        folder, here = launched
        url = f"sqlite:///{folder / 'study.db'}"
        with pytest.raises(InputError, match=f"--trust {tmp_path}/there/tasks"):
            join(None, url, "quickstart", Listener())
        moved = [f"{tmp_path / 'there'}={here}"]
        with pytest.raises(InputError, match=f"--trust {here}/tasks"):
            join(None, url, "quickstart", Listener(), paths=moved, trusted=[f"{tmp_path}/there/tasks"])

    def test_a_study_that_nobody_launched_is_refused(self, tmp_path: Path) -> None:
        create_run(toy_config(), tmp_path / "run", ToyEvaluator().tasks)
        with pytest.raises(InputError, match="launched by run or resume"):
            join(tmp_path / "run", None, None, Listener())


@pytest.mark.exhaustive
def test_ray_places_workers_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [*SMALL, "--set", "runtime.launcher=ray", "--workers", "2"]
    process = start_process("run", CONFIG, "--out", folder, *settings)
    wait_until(lambda: len(events(folder, "trial")) >= 2)
    os.kill(workers_of(process.pid, "ray::Actor")[0], signal.SIGKILL)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    check_whole(open_run(folder), 13)
    assert any("has died and is started again" in event["text"] for event in events(folder, "note"))


@pytest.mark.exhaustive
def test_workers_of_several_hosts_meet_in_postgresql_and_no_password_stays(
    postgres_database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    password = postgres_database.partition("://")[2].partition(":")[2].partition("@")[0]
    first = start_process("run", CONFIG, "--out", folder, *SMALL, "--trials", 80, "--storage", postgres_database)
    wait_until(lambda: bool(events(folder, "begin")))
    trust = ["--trust", str(EXAMPLE / "tasks")]
    joined = start_process("worker", "--storage", postgres_database, "--study", "quickstart", "--json", *trust)
    for process in (first, joined):
        out, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
        assert password not in error
    assert json.loads(out)["documents"] > 0
    os.environ["EVOMERGE_STORAGE"] = postgres_database
    try:
        run = open_run(folder)
    finally:
        del os.environ["EVOMERGE_STORAGE"]
    check_whole(run, 80)
    kept = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(password.encode() in content for content in kept)
    assert password not in json.dumps(run.study.user_attrs)


@pytest.mark.exhaustive
def test_a_worker_process_that_was_paused_for_long_wakes_up_to_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL, "--workers", "2", "--set", "runtime.stale=2")
    wait_until(lambda: len(events(folder, "trial")) >= 2)
    paused = workers_of(process.pid)[0]
    os.kill(paused, signal.SIGSTOP)
    time.sleep(8)
    os.kill(paused, signal.SIGCONT)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    check_whole(open_run(folder), 13)


@pytest.mark.exhaustive
def test_workers_stop_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL, "--workers", "2")
    wait_until(lambda: bool(events(folder, "trial")))
    process.kill()
    process.communicate()
    run = open_run(folder)
    wait_until(lambda: not run.is_held, 60)
    before = Counter(trial.state.name for trial in run.study.get_trials())
    assert before["COMPLETE"] < 13
    resumed = start_process("resume", folder, "--workers", "2")
    _, error = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, error
    check_whole(open_run(folder), 13)


@pytest.mark.exhaustive
def test_ctrl_c_stops_all_workers_in_good_order(tmp_path: Path, evomerge: Command) -> None:
    folder = tmp_path / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL, "--workers", "2")
    wait_until(lambda: len(events(folder, "trial")) >= 2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "everything scored so far is kept" in error
    assert "Traceback" not in error
    assert json.loads(evomerge("status", folder, "--json").out)["state"] == "stopped"
    resumed = start_process("resume", folder)
    _, error = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, error
    check_whole(open_run(folder), 13)
