"""Models that a search would fail at: every trouble of every model is told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from evomerge.runs.doctor.examination import examine
from evomerge.runs.doctor.findings import LeftOut
from tests.runs.doctor.conftest import Copied, configured, levels, look, subject


def _experts(*folders: object) -> str:
    return f"models.experts=[{', '.join(map(str, folders))}]"


def test_the_example_is_sound() -> None:
    at = subject()
    for name in ("models", "experts", "architecture", "dtypes", "tokenizers"):
        assert levels(look(name, at)) == {"ok"}, name


def test_every_broken_expert_is_told(copied: Copied, tmp_path: Path) -> None:
    pickled = copied("add", "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    quantized = copied("add", "quantized", {"quantization_config": {"quant_method": "gptq"}})
    missing = tmp_path / "missing"
    found = look("models", subject(_experts(pickled, quantized, missing)))
    errors = [finding.text for finding in found if finding.level == "error"]
    assert len(errors) == 3
    assert "pickles" in errors[0]
    assert "unquantized" in errors[1]
    assert "no folder" in errors[2]
    assert levels(found) == {"error", "ok"}


def test_every_setting_that_differs_is_told(copied: Copied) -> None:
    other = copied("add", "other", {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8})
    found = [finding.text for finding in look("architecture", subject(_experts(other))) if finding.level == "error"]
    assert len(found) == 3
    assert all("must have the base's" in text for text in found)
    assert {"hidden_size", "num_attention_heads", "num_key_value_heads"} == {text.split()[6] for text in found}


def test_tensors_of_another_shape_are_told(copied: Copied) -> None:
    folder = copied("add", "narrow")
    weights = load_file(folder / "model.safetensors")
    names = [name for name in weights if "down_proj" in name]
    save_file(
        {name: weight[:, :-1].contiguous() if name in names else weight for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (found,) = look("architecture", subject(_experts(folder)))
    assert found.level == "error"
    assert names[0] in found.text
    assert f"and {len(names) - 3} more" in found.text


def test_a_missing_tensor_is_told_by_model(copied: Copied) -> None:
    folder = copied("base", "lacking")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = examine(configured(f"models.base={folder}"), offline=True, weights=False)
    assert any("model.layers.2.mlp.up_proj.weight" in told.text for told in found.errors)
    assert len(found.errors) == 1


def test_other_tokens_are_an_error_with_the_way_out(copied: Copied) -> None:
    folder = copied("add", "longer")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary: dict[str, Any] = tokenizer["model"]["vocab"]
    moved = next(iter(vocabulary))
    vocabulary[f"{moved}{moved}{moved}"] = vocabulary.pop(moved)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (told,) = [finding for finding in look("tokenizers", subject(_experts(folder))) if finding.level == "error"]
    assert "1 tokens that the base lacks" in told.text
    assert "union" in told.advice


def test_a_model_that_is_named_twice_and_many_experts_are_warned_of() -> None:
    add = configured().models.experts[1].model
    twice = [f"{{model: {add}, name: e{number}}}" for number in range(5)]
    at = subject(_experts(*twice))
    assert any("same model as" in finding.text for finding in look("models", at))
    assert look("experts", at)[0].level == "warning"


def test_float16_is_warned_of_where_sources_reach_further() -> None:
    assert levels(look("dtypes", subject("merge.dtype=float16"))) == {"warning"}
    assert levels(look("dtypes", subject("merge.dtype=float32"))) == {"ok"}


def test_hub_models_that_are_not_here_are_skipped_and_nothing_fails() -> None:
    settings = ("models.base=org/base-7b", "models.experts=[org/one-7b, org/two-7b]")
    found = examine(configured(*settings), offline=True)
    assert not found.errors
    skipped = {told.check for told in found.told if told.level == "skipped"}
    assert {"models", "architecture", "tokenizers", "space", "memory", "conflict", "estimates", "hub"} <= skipped
    done = {told.check for told in found.told if told.level != "skipped"}
    assert {"methods", "warm starts", "tasks", "power", "leaks", "libraries", "workers"} <= done
    assert found.parts["power"]["tasks"].keys() == {"quickstart_reverse", "quickstart_add", "quickstart_facts"}


def test_a_configuration_on_the_hub_that_is_not_here_leaves_the_space_out() -> None:
    with pytest.raises(LeftOut, match="number of layers"):
        look("space", subject("models.base=org/base-7b", "models.experts=[org/one-7b]"))
