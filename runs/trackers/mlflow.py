"""MLflow: the server of MLFLOW_TRACKING_URI, else a database in the run's folder, mlflow.db."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.runs.tracking import Tracked, tracker

TAG = "evomerge.id"
BATCH = 100  # parameters that one request may carry
LONGEST = 6000  # characters of a parameter's value, as MLflow's database has it


@tracker("mlflow", package="mlflow", install="evomerge[mlflow]")
def mlflow(tracked: Tracked) -> MLflow:
    """The run with the study's id as its tag, or a new one, in the experiment MLFLOW_EXPERIMENT_NAME or "evomerge".

    MLflow's client is used rather than its active run, which would tag the run with the command line.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Param

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(tracked.folder / 'mlflow.db').resolve()}"
    client = MlflowClient(tracking_uri=address)
    experiment = _experiment(client, tracked)
    found = client.search_runs([experiment], f"tags.`{TAG}` = '{tracked.id}'")
    if found:
        number = found[0].info.run_id
        client.update_run(number, status="RUNNING")
        return MLflow(client, number)
    number = client.create_run(experiment, run_name=tracked.name, tags={TAG: tracked.id}).info.run_id
    parameters = [Param(escaped(key), _shown(value)) for key, value in leaves(tracked.config)]
    for start in range(0, len(parameters), BATCH):
        client.log_batch(number, params=parameters[start : start + BATCH])
    return MLflow(client, number)


def _experiment(client: Any, tracked: Tracked) -> str:
    """The id of the experiment; a new one in a database of the run's own keeps its artifacts in the folder, too."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "evomerge")
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    is_own = not os.environ.get("MLFLOW_TRACKING_URI")
    artifacts = (tracked.folder / "mlflow").resolve().as_uri() if is_own else None
    return str(client.create_experiment(name, artifact_location=artifacts))


class MLflow:
    """A metric for each number, the trial as its step."""

    def __init__(self, client: Any, number: str) -> None:
        self._client = client
        self._number = number

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(escaped(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._number, metrics=metrics)

    def conclude(self, values: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Metrics below `result`, and tags."""
        self.log(0, {f"result/{name}": value for name, value in values.items()})
        for name, text in texts.items():
            self._client.set_tag(self._number, f"evomerge.{name}", text)

    def close(self, why: str) -> None:
        """The run is finished, or killed."""
        if why:
            self._client.set_tag(self._number, "evomerge.stopped", why)
        self._client.set_terminated(self._number, status="KILLED" if why else "FINISHED")


def escaped(name: str) -> str:
    """A name that MLflow takes: other characters than it allows as `:` and their code; different names stay so."""
    return re.sub(r"[^/\w.\- ]", lambda found: f":{ord(found[0]):X}", name)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested data with its dotted key; an empty list or mapping is a value."""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    if not items or not tree:
        yield path, tree
    for key, value in items:
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"({len(text)} characters)"
