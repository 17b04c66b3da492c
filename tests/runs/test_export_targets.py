"""Where an export may go: checked before anything is merged, in one line, with nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from evomerge.engine import export as export_module
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.runs import export as runs_export
from evomerge.runs.export import write_recipe
from tests.engine.tiny import family, llama, recipe
from tests.runs.conftest import Command

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    return family(tmp_path_factory.mktemp("zoo"), llama())


@pytest.fixture(autouse=True)
def _nothing_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a merge began")

    monkeypatch.setattr(runs_export, "_contents", fail)


def refused(zoo: list[ModelRef], to: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        write_recipe(recipe(zoo, "linear"), to, "cpu")
    assert "\n" not in str(error.value)


def test_a_file(zoo: list[ModelRef], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    refused(zoo, tmp_path / "out", "must go to a new or empty folder, but .* is a file")
    refused(zoo, tmp_path / "out" / "deep" / "er", "must go into a folder, but .*out'.* is a file")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_is_not_empty(zoo: list[ModelRef], tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    refused(zoo, tmp_path, "must go to a new or empty folder, but .* is not empty")


def test_no_permission(zoo: list[ModelRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK) and allowed(path, mode)
    )
    for to in (tmp_path / "out", tmp_path / "deep" / "out"):
        refused(zoo, to, f"'{tmp_path}' may not be written to")
    (tmp_path / "empty").mkdir()
    refused(zoo, tmp_path / "empty", "may not be written to")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_no_space(zoo: list[ModelRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(file.stat().st_size for file in Path(zoo[0].model).glob("*.safetensors"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, export_module.SLACK + size // 2))
    refused(zoo, tmp_path / "deep" / "out", "needs .* of free space, but .* has")
    assert not list(tmp_path.iterdir())


def test_licences_are_looked_at_before_the_merge(tmp_path: Path) -> None:
    zoo = family(tmp_path / "zoo", llama())
    (Path(zoo[1].model) / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n")
    refused(zoo, tmp_path / "out", "cc-by-nd-4.0 of math allows no changed versions to be shared; --accept-licence")
    with pytest.raises(AssertionError, match="a merge began"):
        write_recipe(recipe(zoo, "linear"), tmp_path / "out", "cpu", accept_licence=True)


def test_the_command_line_says_what_is_accepted_and_whom_it_trusts(evomerge: Command, tmp_path: Path) -> None:
    zoo = family(tmp_path / "zoo", llama())
    (Path(zoo[1].model) / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n")
    told = recipe(zoo, "linear").model_dump(mode="json")
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(told))
    begun = "a merge began"
    assert "--accept-licence" in evomerge("merge", path, "--to", tmp_path / "out").error
    assert begun in evomerge("merge", path, "--to", tmp_path / "out", "--accept-licence").error
    stated = ("--licence", "math=mit", "--licence", "base=apache-2.0")
    said = evomerge("merge", path, "--to", tmp_path / "out", *stated)
    assert begun in said.error
    assert "licence: none was found for lang, code; find out before you publish the merge" in said.error
    path.write_text(json.dumps({**told, "base": {**told["base"], "trust_remote_code": True}}))
    assert f"add --trust {zoo[0].model}" in evomerge("merge", path, "--to", tmp_path / "out").error
    assert begun in evomerge("merge", path, "--to", tmp_path / "out", *stated, "--trust", zoo[0].model).error
