"""The worked example of a merge method: installed by its entry point, it is listed and passes the conformance suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, blocks, commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and beside them what installing would have left: the entry point."""
    folder = tmp_path_factory.mktemp("method")
    for block in blocks(DOCS / "adding-a-method.md"):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    package = folder / "my-methods"
    told = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    left = package / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    left.mkdir()
    (left / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in members.items())
        for group, members in told["entry-points"].items()
    ]
    (left / "entry_points.txt").write_text("".join(groups))
    return package


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def lines() -> list[str]:
    return [line for block in blocks(DOCS / "adding-a-method.md") if block.language == "sh" for line in commands(block)]


def test_the_method_is_listed(folder: Path) -> None:
    assert "evomerge methods balanced" in lines()
    said = run(folder, "evomerge", "methods", "balanced")
    assert said.returncode == 0, said.stderr
    assert "brought to the same length" in said.stdout


@pytest.mark.exhaustive
def test_it_passes_the_conformance_suite(folder: Path) -> None:
    command = next(line for line in lines() if line.startswith("pytest "))
    said = run(folder, *command.split())
    assert said.returncode == 0, said.stdout
    assert int(said.stdout.rsplit(" passed", 1)[0].split()[-1]) > 25, said.stdout


@pytest.mark.exhaustive
def test_a_wrong_formula_fails_it(folder: Path, tmp_path: Path) -> None:
    for name in ("balanced.py", "balanced_oracle.py"):
        (tmp_path / name).write_text((folder / name).read_text().replace("w * mean / length", "w * mean"))
    (tmp_path / "my_methods-0.1.0.dist-info").symlink_to(folder / "my_methods-0.1.0.dist-info")
    suite = "tests/engine/test_conformance.py::test_engine_equals_reference"
    said = run(tmp_path, "pytest", "-p", "balanced_oracle", suite, "-k", "balanced")
    assert said.returncode == 1, said.stdout
