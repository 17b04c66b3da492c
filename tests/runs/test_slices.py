"""mergekit's slices: the files that mergekit writes for them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.runs.export import write_recipe
from evomerge.search.recipes import read_recipe
from tests.engine.tiny import family, llama


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    return family(tmp_path_factory.mktemp("slices"), llama(tie_word_embeddings=False))


def written(folder: Path, *pieces: tuple[str, int, int], **more: Any) -> Path:
    slices = [{"sources": [{"model": model, "layer_range": [start, stop]}]} for model, start, stop in pieces]
    path = folder / "slices.yaml"
    path.write_text(yaml.safe_dump({"merge_method": "passthrough", "dtype": "float32", "slices": slices, **more}))
    return path


@pytest.mark.parametrize("case", ["two models", "three pieces", "one model"])
def test_slices_give_mergekits_files(case: str, zoo: list[ModelRef], tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    base, math, lang, _ = (ref.model for ref in zoo)
    pieces = {
        "two models": [(math, 0, 2), (lang, 1, 3)],
        "three pieces": [(base, 0, 3), (math, 1, 2), (base, 2, 3)],
        "one model": [(base, 0, 2), (base, 1, 3)],
    }[case]
    path = written(tmp_path, *pieces)
    write_recipe(read_recipe(path), tmp_path / "ours", "cpu")
    config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    run_merge(config, str(tmp_path / "theirs"), MergeOptions(copy_tokenizer=False, quiet=True))
    ours, theirs = (
        {name: tensor for file in (tmp_path / who).glob("*.safetensors") for name, tensor in load_file(file).items()}
        for who in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": [{"sources": []}]}, "a slice must have sources with model and layer_range"),
        ({"slices": [{"sources": [{"model": "a"}]}]}, "a source of a slice must have model and layer_range"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [3, 1]}]}]}, r"must be \[first, after the last\]"),
        ({"slices": [{"sources": [], "layers": 3}]}, "a slice must have sources"),
    ],
)
def test_other_slices_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_recipe(written(tmp_path, ("a", 0, 1), **change))
    assert "\n" not in str(error.value)


def test_slices_whose_models_give_other_layers_are_refused(zoo: list[ModelRef], tmp_path: Path) -> None:
    sources = [{"model": ref.model, "layer_range": [i, i + 2]} for i, ref in enumerate(zoo[:2])]
    path = written(tmp_path, merge_method="linear", slices=[{"sources": sources}], parameters={"weight": 1})
    with pytest.raises(InputError, match=r"must give the same layer_range here, but got \[0, 2\], \[1, 3\]"):
        read_recipe(path)


def test_a_layer_with_other_numbers_each_time_is_refused(zoo: list[ModelRef], tmp_path: Path) -> None:
    slices = [
        {"sources": [{"model": zoo[1].model, "layer_range": [0, 2]}], "parameters": {"weight": weight}}
        for weight in (1.0, 0.5)
    ]
    path = written(tmp_path, merge_method="linear", slices=slices, parameters={"normalize": False})
    with pytest.raises(InputError, match="must have the same numbers each time"):
        read_recipe(path)


def test_layers_that_a_model_lacks_are_refused(zoo: list[ModelRef], tmp_path: Path) -> None:
    path = written(tmp_path, (zoo[0].model, 0, 9))
    with pytest.raises(InputError, match=r"layer_range must lie in \[0, 3\], since the model has 3 layers"):
        read_recipe(path)
