"""Bad input: one line that says what is wrong, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.runs.conftest import CONFIG, EXAMPLE, SMALL, Command


def config_with(folder: Path, **sections: dict[str, Any]) -> Path:
    """The example's configuration with its paths made absolute and some keys replaced."""
    raw = yaml.safe_load((EXAMPLE / "search.yaml").read_text())
    raw["models"] = {
        "base": str(EXAMPLE / "models" / "base"),
        "experts": [str(EXAMPLE / "models" / name) for name in ("reverse", "add", "facts")],
    }
    raw["evaluate"]["include_path"] = str(EXAMPLE / "tasks")
    raw["evaluate"]["limit"] = 40
    for name, section in sections.items():
        raw[name] = {**raw[name], **section}
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def broken_expert(folder: Path, breaks: Any) -> dict[str, Any]:
    """Models with one expert spoilt."""
    expert = folder / "spoilt"
    shutil.copytree(EXAMPLE / "models" / "add", expert)
    breaks(expert)
    return {"base": str(EXAMPLE / "models" / "base"), "experts": [str(expert)]}


def truncate(expert: Path) -> None:
    weights = expert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def lie(expert: Path) -> None:
    weights = expert / "model.safetensors"
    raw = weights.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    name = next(key for key in header if key != "__metadata__")
    header[name]["shape"] = [side * 2 for side in header[name]["shape"]]
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def lose_shard(expert: Path) -> None:
    tensors = load_file(expert / "model.safetensors")
    (expert / "model.safetensors").unlink()
    names = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (expert / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def pickle_only(expert: Path) -> None:
    (expert / "model.safetensors").rename(expert / "pytorch_model.bin")


def lose_layer(expert: Path) -> None:
    tensors = {n: t for n, t in load_file(expert / "model.safetensors").items() if ".layers.3." not in n}
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    rewrite_config(expert, num_hidden_layers=3)


def rewrite_config(expert: Path, **changes: Any) -> None:
    path = expert / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename_token(expert: Path) -> None:
    path = expert / "tokenizer.json"
    path.write_text(path.read_text().replace('"reverse"', '"esrever"'))


MODELS = {
    "truncated": (truncate, "model.safetensors"),
    "a lying header": (lie, "model.safetensors"),
    "a lost shard": (lose_shard, "model-00001-of-00001.safetensors"),
    "pickles": (pickle_only, "safetensors"),
    "fewer layers": (lose_layer, "num_hidden_layers"),
    "another hidden size": (lambda expert: rewrite_config(expert, hidden_size=320), "hidden_size"),
    "another architecture": (lambda expert: rewrite_config(expert, model_type="mistral"), "mistral"),
    "another vocabulary": (rename_token, "token 'reverse' has id none"),
}

SECTIONS: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "an unknown key": ({"search": {"trails": 3}}, "did you mean 'trials'?"),
    "an unknown method": ({"merge": {"method": "task_arithmetics"}}, "did you mean 'task_arithmetic'?"),
    "an unknown option": ({"merge": {"options": {"normalise": True}}}, "did you mean 'normalize'?"),
    "an unknown sampler": ({"search": {"sampler": "cma"}}, "did you mean 'cmaes'?"),
    "an unknown warm start": ({"search": {"warm_start": ["unifrom"]}}, "did you mean 'uniform'?"),
    "reversed bounds": ({"space": {"weight": [1.0, 0.0]}}, "low < high, but got [1, 0]"),
    "bounds outside of the range": ({"space": {"weight": [0, 99]}}, "range [-10, 10], but got [0, 99]"),
    "a missing folder": ({"models": {"experts": ["./nowhere"]}}, "nowhere"),
    "an unknown task": ({"evaluate": {"tasks": ["quickstart_ad"]}}, "did you mean 'quickstart_add'?"),
    "an unknown metric": (
        {"evaluate": {"tasks": [{"task": "quickstart_add", "metric": "exact_mach"}]}},
        "did you mean 'exact_match'?",
    ),
    "too few documents": ({"evaluate": {"limit": 1}}, "document"),
    "slerp of three": ({"merge": {"method": "slerp"}}, "exactly 1 expert"),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_wrong_configurations(name: str, tmp_path: Path, evomerge: Command) -> None:
    sections, hint = SECTIONS[name]
    refused(evomerge("run", config_with(tmp_path, **sections), "--out", tmp_path / "run"), hint, tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_wrong_models(name: str, tmp_path: Path, evomerge: Command) -> None:
    breaks, hint = MODELS[name]
    path = config_with(tmp_path, models=broken_expert(tmp_path, breaks))
    refused(evomerge("run", path, "--out", tmp_path / "run"), hint, tmp_path)


def refused(said: Any, hint: str, folder: Path) -> None:
    assert said.code == 2, said
    assert said.out == ""
    lines = [line for line in said.error.splitlines() if line.strip()]
    assert len(lines) == 1, said.error
    assert lines[0].startswith("evomerge: ")
    assert hint in lines[0]
    assert not (folder / "run").exists()


def test_a_folder_that_holds_another_run_is_left_alone(finished: Path, evomerge: Command) -> None:
    before = (finished / "config.yaml").read_text()
    said = evomerge("run", CONFIG, "--out", finished, *SMALL)
    assert said.code == 2
    assert "holds a run" in said.error
    assert (finished / "config.yaml").read_text() == before


def test_a_run_is_resumed_with_its_own_configuration_only(finished: Path, tmp_path: Path, evomerge: Command) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    path = run / "config.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["search"]["seed"] = 5
    raw["space"]["weight"] = [0.0, 1.0]
    raw["search"]["trials"] = 14
    path.write_text(yaml.safe_dump(raw))
    said = evomerge("resume", run)
    assert said.code == 2
    assert "search.seed was 0 and is 5" in said.error
    assert "space.weight" in said.error
    assert "trials" not in said.error


def test_models_that_changed_since_the_run_began_are_told(tmp_path: Path, evomerge: Command) -> None:
    models = broken_expert(tmp_path, lambda expert: None)
    path = config_with(tmp_path, models=models, search={"trials": 2, "warm_start": [], "sampler": "random"})
    assert evomerge("run", path, "--out", tmp_path / "run").code == 0
    weights = tmp_path / "spoilt" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    said = evomerge("resume", tmp_path / "run", "--trials", 3)
    assert said.code == 2
    assert "models.experts spoilt" in said.error


def test_a_candidate_that_is_not_finite_is_a_failed_trial(tmp_path: Path, evomerge: Command) -> None:
    def spoil(expert: Path) -> None:
        tensors = load_file(expert / "model.safetensors")
        tensors["model.norm.weight"][3] = float("nan")
        save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})

    models = broken_expert(tmp_path, spoil)
    models["experts"].append(str(EXAMPLE / "models" / "facts"))
    search = {"trials": 5, "sampler": "random", "warm_start": ["experts"]}
    said = evomerge("run", config_with(tmp_path, models=models, search=search), "--out", tmp_path / "run")
    assert said.code == 2
    assert "expert 'spoilt' holds 1 NaN or infinite values in model.norm.weight" in said.error
    assert not (tmp_path / "run").exists()
    path = config_with(tmp_path, models=models, search=search, merge={"allow_nonfinite": True})
    said = evomerge("run", path, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.error
    told = json.loads(said.out)
    assert told["trials"]["failed"] == 4
    assert told["trials"]["complete"] == 1
    assert "NaN" in (tmp_path / "run" / "events.jsonl").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "nowhere"],
        ["resume", "nowhere"],
        ["resume"],
        ["export", "nowhere", "--to", "x"],
        ["merge", "nowhere.yaml", "--to", "x"],
        ["eval", "nowhere", "--config", CONFIG],
        ["eval", str(EXAMPLE / "models" / "base"), "--config", CONFIG, "--split", "serch"],
        ["run", CONFIG, "--workers", "0", "--out", "x"],
        ["run", CONFIG, "--workers", "2", "--device", "balanced", "--out", "x"],
        ["run", CONFIG, "--out", "/proc/run"],
        ["worker"],
        ["worker", "nowhere"],
        ["worker", "nowhere", "--path", "here=there"],
        ["run", CONFIG, "--set", "search.trials", "--out", "x"],
        ["run", CONFIG, "--device", "cuda:99", "--out", "x"],
        ["run", CONFIG, "--timeout", "soon", "--out", "x"],
        ["run", CONFIG, "--storage", "nonsense", "--out", "x"],
        ["run", CONFIG, "--trials", "none", "--out", "x"],
        ["rum", CONFIG],
    ],
)
def test_wrong_arguments(
    arguments: list[str], tmp_path: Path, evomerge: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = evomerge(*arguments)
    assert said.code == 2, said
    assert len(said.error.strip().splitlines()) == 1, said.error
    assert list(tmp_path.iterdir()) == []
