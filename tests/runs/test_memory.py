"""The memory plan, as the verbs tell it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from evomerge.engine.memory import WORKING
from tests.runs.conftest import CONFIG, EXAMPLE, Command


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    models = {"base": str(EXAMPLE / "models" / "base"), "experts": [str(EXAMPLE / "models" / "facts")]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**models, "method": "ties", "groups": [{"parameters": {"density": 0.4}}]}))
    return path


def test_merge_says_what_is_kept_where_and_needs_no_room_for_the_candidate(
    recipe: Path, tmp_path: Path, evomerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = evomerge("merge", recipe, "--to", tmp_path / "whole")
    assert said.code == 0, said.error
    assert "memory       base base" in said.error
    assert "the candidate" not in said.error
    monkeypatch.setattr("evomerge.engine.memory.resident", lambda: 0)
    limit = WORKING + 3_500_000
    said = evomerge("merge", recipe, "--to", tmp_path / "tight", "--memory-limit", str(limit))
    assert said.code == 0, said.error
    assert "disk         expert facts" in said.error
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "tight"))
    assert one == two


@pytest.mark.parametrize("verb", ["run", "merge", "eval"])
def test_a_limit_that_is_too_small_is_wrong_input(verb: str, recipe: Path, tmp_path: Path, evomerge: Command) -> None:
    arguments = {
        "run": [CONFIG, "--out", tmp_path / "run"],
        "merge": [recipe, "--to", tmp_path / "merged"],
        "eval": [recipe, "--config", CONFIG],
    }[verb]
    said = evomerge(verb, *arguments, "--memory-limit", "1MB")
    assert said.code == 2
    *told, last = said.error.strip().splitlines()
    assert last.startswith("evomerge: memory_limit must be at least ")
    assert all(line.startswith("licence: ") for line in told)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "merged").exists()
    said = evomerge(verb, *arguments, "--memory-limit", "plenty")
    assert said.code == 2
    assert "must be a positive size such as 6GB" in said.error
