"""optuna-dashboard opens a run's study: it is an ordinary one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.runs.run import open_run
from evomerge.search.storage import sqlite_url


def asked(app: Any, path: str) -> Any:
    """The JSON that a WSGI application answers a GET with."""
    answered: dict[str, Any] = {}

    def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        answered["status"] = status

    path, _, query = path.partition("?")
    environment = {
        **{"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "127.0.0.1"},
        **{"SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"},
        **{"wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()},
    }
    body = b"".join(app(environment, start))
    assert answered["status"].startswith("200"), body
    return json.loads(body)


def test_the_dashboard_finds_the_study_its_trials_and_their_parameters(finished: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    app = dashboard.wsgi(str(sqlite_url(finished / "study.db")))
    run = open_run(finished)
    studies = asked(app, "/api/studies")["study_summaries"]
    (study,) = [each for each in studies if each["study_name"] == run.study.study_name]
    detail = asked(app, f"/api/studies/{study['study_id']}?after=0")
    trials = run.study.get_trials()
    assert [trial["number"] for trial in detail["trials"]] == [trial.number for trial in trials]
    for shown, trial in zip(detail["trials"], trials, strict=True):
        assert {param["name"] for param in shown["params"]} == set(trial.params)
        assert shown["state"].lower().startswith(trial.state.name.lower()[:4])
        assert [float(value) for value in shown["values"]] == trial.values
    searched = {param["name"] for param in detail["union_search_space"]}
    assert searched == {name for trial in trials for name in trial.params}
