"""A search, an export and a report with a secret in every place leave none behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url

from tests.runs.conftest import CONFIG

SECRETS = {
    "HF_TOKEN": "hf_" + "Sec0" * 8,
    "WANDB_API_KEY": "wandb-correct-horse-battery",
    "AWS_SECRET_ACCESS_KEY": "aws-correct-horse-battery",
}
SMALL = [
    *("--set", "evaluate.limit=12", "--set", "search.trials=4", "--set", "search.finalists=1", "--device", "cpu"),
    *("--set", "search.sampler=random", "--set", "search.warm_start=[uniform]"),
]


def call(*arguments: object, fails: bool = False) -> str:
    """What the command line says on both outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **SECRETS, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def everything(url: str) -> str:
    """All that a database holds."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = [
            repr(tuple(row))
            for table in inspect(engine).get_table_names()
            for row in connection.execute(text(f'SELECT * FROM "{table}"'))
        ]
    engine.dispose()
    return "\n".join(rows)


def require_clean(secrets: list[str], said: list[str], *folders: Path) -> None:
    """No secret is in a text or in the name or the content of a file, also not percent-encoded."""
    held = {f"output {number}": output.encode() for number, output in enumerate(said)}
    for folder in folders:
        held |= {str(path): path.read_bytes() + str(path).encode() for path in folder.rglob("*") if path.is_file()}
    found = [
        (place, secret[:12]) for place, content in held.items() for secret in secrets if secret.encode() in content
    ]
    assert found == []


def test_nothing_of_a_search_holds_a_secret(postgres_database: str, tmp_path: Path) -> None:
    password = make_url(postgres_database).password
    assert password
    run, exported = tmp_path / "run", tmp_path / "exported"
    said = [call("--debug", "run", CONFIG, "--out", run, "--storage", postgres_database, *SMALL)]
    public = make_url(postgres_database).set(password=None).render_as_string()
    assert public in (run / "config.yaml").read_text(), "the run's own configuration says where its database is"
    os.environ["PGPASSWORD"] = password
    try:
        said += [call("status", run, "--json"), call("report", run), call("export", run, "--to", exported)]
    finally:
        del os.environ["PGPASSWORD"]
    said.append(call("resume", run, fails=True))
    require_clean([password, *SECRETS.values()], [*said, everything(postgres_database)], run, exported)


@pytest.mark.parametrize(
    "settings",
    [
        ["--set", "search.sampler_options={key: " + SECRETS["HF_TOKEN"] + "}"],
        ["--set", "models.base=https://user:" + SECRETS["HF_TOKEN"] + "@huggingface.co/org/m"],
        ["--set", "models.base.model=org/m?token=" + SECRETS["WANDB_API_KEY"]],
        ["--set", "evaluate.system_instruction=the key is " + SECRETS["AWS_SECRET_ACCESS_KEY"]],
        ["--storage", "postgresql+psycopg://u:" + SECRETS["WANDB_API_KEY"] + "@127.0.0.1:1/db"],
        ["--storage", "postgresql+psycopg://127.0.0.1:1/db?user=u&password=" + SECRETS["WANDB_API_KEY"]],
        ["--storage", "nonsense://u:" + SECRETS["WANDB_API_KEY"] + "@h/db"],
    ],
)
def test_errors_hold_no_secret(settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.runs.cli import main

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words, **how: said.append(" ".join(map(str, words))))
    with pytest.raises(SystemExit) as stopped:
        main(["run", CONFIG, "--out", str(tmp_path / "run"), *settings])
    assert stopped.value.code in (1, 2)
    assert said
    require_clean(list(SECRETS.values()), said, tmp_path)
