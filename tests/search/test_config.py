"""Configurations: what is read, and how wrong ones are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.errors import InputError
from evomerge.runs.files import as_yaml
from evomerge.search.config import load_config

GOOD: dict[str, Any] = {
    "name": "toy",
    "models": {"base": "./base", "experts": ["./a", {"model": "./base", "adapter": "./b", "name": "lora"}]},
    "merge": {"method": "ties", "options": {"normalize": True}},
    "space": {"layers": "blocks", "blocks": 5, "modules": ["attention", "mlp", "other"], "weight": [0.0, 1.2]},
    "evaluate": {"include_path": "./tasks", "tasks": [{"task": "t", "metric": "acc", "num_fewshot": 0}]},
    "search": {"trials": 60, "timeout": "30m", "warm_start": ["uniform", "experts", "sweep"]},
    "runtime": {"device": "auto", "workers": 1, "storage": None, "launcher": "processes"},
}


def write(folder: Path, raw: Any) -> Path:
    path = folder / "search.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return path


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {**GOOD, **{name: {**GOOD[name], **section} for name, section in sections.items()}}


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.models.base.model == str(tmp_path / "base")
    assert config.models.experts[1].adapter == str(tmp_path / "b")
    assert config.models.experts[1].name == "lora"
    assert config.evaluate.include_paths == (tmp_path / "tasks",)
    assert config.search.timeout == 1800.0


def test_a_resolved_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    (tmp_path / "elsewhere").mkdir()
    assert load_config(write(tmp_path / "elsewhere", as_yaml(config))) == config


def test_set_overrides_keys(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), ["search.trials=7", "merge.method=[ties, linear]", "search.timeout=2h"])
    assert (config.search.trials, config.merge.method, config.search.timeout) == (7, ("ties", "linear"), 7200.0)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (changed(search={"trails": 3}), "a key of search must be one of"),
        (changed(search={"trails": 3}), "got 'trails'; did you mean 'trials'?"),
        (changed(evaluate={"taks": []}), "did you mean 'tasks'?"),
        ({**GOOD, "modles": {}}, "a key of the configuration must be one of"),
        (changed(evaluate={"tasks": [{"task": "t", "metrik": "acc"}]}), "did you mean 'metric'?"),
        (changed(search={"trials": 0}), "search.trials: Input should be greater than or equal to 1, but got 0"),
        (changed(search={"timeout": "soon"}), "such as 30m, but got 'soon'"),
        (changed(runtime={"workers": 0}), "runtime.workers: Input should be greater than or equal to 1, but got 0"),
        (changed(models={"experts": ["./a", "./x/a"]}), "experts must have unique names, but 'a' names two"),
        (changed(evaluate={"splits": {"search": 0.9, "select": 0.2, "report": 0.4}}), "sum to at most 1"),
        (changed(runtime={"memory_limit": "lots"}), "a memory limit must be a positive size such as 6GB or 500MiB"),
        (changed(runtime={"device": "gpu"}), "runtime.device: String should match pattern"),
        ({key: GOOD[key] for key in GOOD if key != "models"}, "models: Field required"),
        ("name: [", "must be a configuration in YAML, but is not"),
        ("- a", "must be a mapping"),
        (changed(merge={"dtype": "float8"}), "merge.dtype: Input should be"),
    ],
)
def test_wrong_configurations_are_told_in_one_line(raw: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, raw)
    with pytest.raises(InputError) as error:
        load_config(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["search.trials", "=3", "search.trials=[", "name.x=3"])
def test_wrong_overrides_are_told(override: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--set"):
        load_config(write(tmp_path, GOOD), [override])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a configuration in YAML, but: No such file"):
        load_config(tmp_path / "none.yaml")
