"""Workers that Ray places on a cluster, or on this host where there is none."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict, replace
from typing import Any

from evomerge.errors import InputError
from evomerge.runs.launchers.order import Order, Outcome, carry_out
from evomerge.search.config import RuntimeConfig
from evomerge.search.interrupt import StopRequest

_GPU = "GPU"


def require_ray() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "runtime.launcher ray needs the package ray, which is not installed; pip install 'evomerge[ray]'"
        ) from None
    return ray


class RayLauncher:
    """Starts an actor for each order: with one GPU where the cluster has any, else with a share of its cores.

    The cluster is that of RAY_ADDRESS or of this host's Ray; without one, Ray is started on this host alone, and ends
    with the search. A worker that dies is started again by whoever watches, wherever there is room then.

    Args:
        runtime: how many workers there are, and on which devices.
        dialect: of the study's database.

    Raises:
        InputError: Ray is not installed, the cluster has no room for all workers at a time, or its hosts would not all
            reach the database.
    """

    def __init__(self, runtime: RuntimeConfig, dialect: str) -> None:
        self._ray = require_ray()
        _connect(self._ray)
        try:
            self._needs = self._room(runtime, dialect)
        except BaseException:
            self.close()
            raise

    def start(self, order: Order) -> ActorHandle:
        """Start an actor, as soon as there is room for it."""
        threads = max(1, int(self._needs.get("num_cpus", 1)))
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}}
        actor = (
            self._ray.remote(Actor)
            .options(max_restarts=0, max_concurrency=2, runtime_env=environment, **self._needs)
            .remote(json.dumps(replace(order, threads=threads).as_data()))
        )
        return ActorHandle(self._ray, actor)

    def close(self) -> None:
        """Leave the cluster, or end the one that was started for the search."""
        self._ray.shutdown()

    def _room(self, runtime: RuntimeConfig, dialect: str) -> dict[str, float]:
        """What each worker asks for."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        if dialect == "sqlite" and len(nodes) > 1:
            raise InputError(
                f"runtime.storage must be a database that all hosts reach, such as PostgreSQL, but got SQLite for "
                f"{len(nodes)} hosts"
            )
        gpus = [int(node["Resources"].get(_GPU, 0)) for node in nodes]
        if runtime.device != "cpu" and any(gpus):
            _check_room(runtime.workers, sum(gpus), "GPUs")
            return {"num_gpus": 1, "num_cpus": 1}
        cores = [int(node["Resources"].get("CPU", 0)) for node in nodes]
        _check_room(runtime.workers, sum(cores), "cores")
        each = max(1, sum(cores) // runtime.workers)
        while sum(count // each for count in cores) < runtime.workers:  # a worker cannot be spread over hosts
            each -= 1
        return {"num_gpus": 0, "num_cpus": each}


class Actor:
    """A worker in a process of Ray's.

    Args:
        order: as JSON.
    """

    def __init__(self, order: str) -> None:
        self._order = Order(**json.loads(order))
        self._stop = StopRequest()
        self._is_done = threading.Event()

    def work(self) -> str:
        """Carry out the order. Returns the outcome as JSON."""
        try:
            return json.dumps(asdict(carry_out(self._order, self._stop)))
        finally:
            self._is_done.set()

    def stop(self) -> None:
        """Ask to stop."""
        self._stop.set()


class ActorHandle:
    """A worker that Ray runs.

    Args:
        ray: the package.
        actor: the actor.
    """

    where = "the logs of Ray"

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._ended = actor.work.remote()

    def outcome(self) -> Outcome | None:
        """How it ended; None: it is running, or waits for room."""
        if not self._ray.wait([self._ended], timeout=0)[0]:
            return None
        try:
            outcome = Outcome(**json.loads(self._ray.get(self._ended)))
        except self._ray.exceptions.RayError as error:
            return Outcome(1, " ".join(str(error).split("\n")[0].split()) or type(error).__name__)
        self.kill()
        return outcome

    def stop(self) -> None:
        """Ask it to stop at the next chunk of documents."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)


def _connect(ray: Any) -> None:
    """Join the cluster that there is, or start Ray on this host."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it listens to this host alone
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)


def _check_room(workers: int, room: int, what: str) -> None:
    if workers > room:
        raise InputError(f"runtime.workers must be at most the {room} {what} of the cluster, but got {workers}")
