"""The tutorials are true: every command and every file in them is used, on fewer documents and candidates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, follow
from tests.runs.conftest import Command

SMALLER = {
    "run": [
        *("--trials", "5", "--device", "cpu", "--set", "evaluate.limit=24", "--set", "search.finalists=1"),
        *("--set", "search.warm_start=[uniform,experts]"),
    ],
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples in it, as the repository's top has them."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def smaller(arguments: list[str]) -> list[str]:
    return SMALLER.get(arguments[0], []) if arguments[0] == "run" else []


@pytest.mark.parametrize(
    "name", ["first-search", "choosing-a-space", pytest.param("your-own-task", marks=pytest.mark.exhaustive)]
)
def test_a_tutorial_works_as_written(name: str, checkout: Path, evomerge: Command) -> None:
    assert follow(DOCS / "tutorials" / f"{name}.md", checkout, evomerge, smaller) >= 4
