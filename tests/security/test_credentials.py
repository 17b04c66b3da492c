"""A search, an export and a report with a secret in every place leave none behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import make_url

from evomerge.runs.cli import main
from tests.runs.conftest import CONFIG

SECRETS = {
    "HF_TOKEN": "hf_" + "Sec0" * 8,
    "WANDB_API_KEY": "wandb-correct-horse-battery",
    "AWS_SECRET_ACCESS_KEY": "aws-correct-horse-battery",
}
SMALL = [
    *("--set", "evaluate.limit=30", "--set", "search.trials=2", "--set", "search.finalists=1", "--device", "cpu"),
    *("--set", "search.sampler=random", "--set", "search.warm_start=[uniform]"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def call(*arguments: object, fails: bool = False) -> None:
    """The command line, in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert (stopped.value.code not in (0, None)) == fails


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
    """No secret is in a text, or in the name or the content of a file."""
    held = {f"text {number}": words.encode() for number, words in enumerate(said)}
    for folder in folders:
        held |= {str(path): path.read_bytes() + str(path).encode() for path in folder.rglob("*") if path.is_file()}
    found = [(place, secret[:9]) for place, content in held.items() for secret in secrets if secret.encode() in content]
    assert found == []


def test_nothing_of_a_search_holds_a_secret(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    password = make_url(postgres_database).password
    assert password
    run, exported = tmp_path / "run", tmp_path / "exported"
    call("run", CONFIG, "--out", run, "--storage", postgres_database, *SMALL)
    assert postgres_database.replace(f":{password}@", "@") in (run / "config.yaml").read_text()
    call("resume", run, fails=True)
    monkeypatch.setenv("PGPASSWORD", password)
    call("status", run, "--json")
    call("report", run)
    call("export", run, "--to", exported)
    said = [*capfd.readouterr(), everything(postgres_database)]
    require_clean([password, *SECRETS.values()], said, run, exported)


@pytest.mark.parametrize(
    "settings",
    [
        ["--set", "search.sampler_options={key: " + SECRETS["HF_TOKEN"] + "}"],
        ["--set", "models.base=https://user:" + SECRETS["HF_TOKEN"] + "@huggingface.co/org/m"],
        ["--set", "models.base.model=org/m?token=" + SECRETS["WANDB_API_KEY"]],
        ["--set", "evaluate.system_instruction=the key is " + SECRETS["AWS_SECRET_ACCESS_KEY"]],
        ["--set", "nonsense=" + SECRETS["HF_TOKEN"]],
        ["--storage", "postgresql+psycopg://u:" + SECRETS["WANDB_API_KEY"] + "@127.0.0.1:1/db"],
        ["--storage", "postgresql+psycopg://127.0.0.1:1/db?user=u&password=" + SECRETS["WANDB_API_KEY"]],
        ["--storage", "nonsense://u:" + SECRETS["WANDB_API_KEY"] + "@h/db"],
    ],
)
def test_errors_hold_no_secret(settings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call("run", CONFIG, "--out", tmp_path / "run", *settings, fails=True)
    said = capfd.readouterr()
    assert said.err.strip().startswith("evomerge: ")
    require_clean(list(SECRETS.values()), list(said), tmp_path)
