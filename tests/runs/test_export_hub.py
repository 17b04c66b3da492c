"""Uploading an export to the hub, and merging what is there: huggingface_hub's own path against a mirror."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from evomerge.engine.export import weights_digest
from evomerge.errors import EvomergeError, InputError
from evomerge.runs.hub import check_push, push
from tests.runs.conftest import Command
from tests.runs.mirror import TOKEN, Hub, mirror


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with mirror(tmp_path / "cache", monkeypatch) as running:
        yield running


def test_an_export_is_uploaded_whole_private_and_can_be_merged_from_there(
    finished: Path, evomerge: Command, hub: Hub, tmp_path: Path
) -> None:
    to = tmp_path / "model"
    said = evomerge("export", finished, "--to", to, "--push-to-hub", "ours/merged")
    assert said.code == 0, said
    assert f"uploaded to {hub.url}/ours/merged" in said.out
    assert hub.private == {"ours/merged"}
    files = hub.repositories["ours/merged"]
    assert {path.name: path.read_bytes() for path in to.iterdir()} == files
    assert "name folders of this machine" in said.error
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model_relation == "merge"
    assert 'from_pretrained("ours/merged"' in card.text
    recipe = {"base": "ours/merged", "experts": [{"model": "ours/merged", "name": "again"}], "method": "linear"}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    said = evomerge("merge", tmp_path / "recipe.json", "--to", tmp_path / "second", "--json")
    assert said.code == 0, said
    digests = {
        weights_digest(AutoModelForCausalLM.from_pretrained(f, dtype=torch.bfloat16)) for f in (to, tmp_path / "second")
    }
    assert len(digests) == 1
    assert ModelCard.load(tmp_path / "second" / "README.md").data.base_model == ["ours/merged"]
    assert TOKEN not in said.out + said.error


def test_a_repository_that_exists_stays_what_it_is(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/model"] = {}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    told: list[str] = []
    assert push(tmp_path / "model", "me/model", tell=told.append) == f"{hub.url}/me/model"
    assert told == ["hub: me/model exists and stays public"]
    assert hub.repositories["me/model"] == {"config.json": b"{}"}


def test_public_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    push(tmp_path / "model", "me/model", private=False)
    assert "me/model" in hub.repositories
    assert not hub.private


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ("no/such/name", "must name a repository"),
        ("me/-model", "must name a repository"),
        ("theirs/model", "must name a repository of me or ours, but got 'theirs/model'"),
    ],
)
def test_names_are_checked_before_anything_is_merged(
    repository: str, message: str, finished: Path, evomerge: Command, hub: Hub, tmp_path: Path
) -> None:
    said = evomerge("export", finished, "--to", tmp_path / "model", "--push-to-hub", repository)
    assert said.code == 2
    assert message in said.error
    assert len(said.error.strip().splitlines()) == 1
    assert not (tmp_path / "model").exists()
    assert all(path == "/api/whoami-v2" for _, path in hub.asked)


def test_tokens_are_checked_before_anything_is_merged(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="refuses this one; log in"):
        check_push("me/model")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    hub.asked.clear()
    with pytest.raises(InputError, match="needs a token with the right to write"):
        check_push("me/model")
    assert not hub.asked


@pytest.mark.parametrize("step", ["/api/repos/create", "/preupload/", "/objects/batch", "/commit/"])
def test_an_upload_that_fails_keeps_the_folder_and_the_secret(step: str, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    hub.fail = {step: 403}
    with pytest.raises(
        EvomergeError, match=r"model is written, but me/model could not be uploaded to: .*hf upload"
    ) as error:
        push(folder, "me/model")
    assert TOKEN not in str(error.value)
    assert "\n" not in str(error.value)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


def test_an_unreachable_hub_is_told_before_anything_is_merged(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail = {"/api/whoami-v2": 404}
    with pytest.raises(EvomergeError, match="the hub could not be asked"):
        check_push("me/model")
