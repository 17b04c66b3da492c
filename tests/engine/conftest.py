from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.engine.recipe import ModelRef
from tests.engine.tiny import family, llama


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    """Base, math, lang, code: tied Llamas in float32."""
    return family(tmp_path_factory.mktemp("zoo"), llama())


@pytest.fixture(scope="session")
def zoo_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    """The same in bfloat16, not tied and in several shards."""
    config = llama(tie_word_embeddings=False)
    return family(tmp_path_factory.mktemp("zoo16"), config, torch.bfloat16, max_shard_size="4KB")


@pytest.fixture
def copy_of(tmp_path: Path):
    """Copies a model's folder, so that a test may break it."""
    import shutil

    def copy(ref: ModelRef, name: str = "broken") -> Path:
        return Path(shutil.copytree(ref.model, tmp_path / name))

    return copy
