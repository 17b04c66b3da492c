"""A live model written to a folder that transformers loads, all of it or nothing; and the digest of its weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evomerge.engine.model import quiet
from evomerge.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_SHARD = "5GB"


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    max_shard_size: str = MAX_SHARD,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write weights, configuration, generation configuration and tokenizer to `folder`.

    They are written beside it first and moved when all of it is on disk, so that `folder` is complete or absent.

    Args:
        model: on any device; the files have its parameters' dtypes.
        tokenizer: with its chat template; None writes no tokenizer.
        folder: must be absent or empty.
        max_shard_size: of a safetensors file, such as "5GB".
        files: the text of further files by name; they replace what transformers writes under such a name.

    Returns:
        The folder.

    Raises:
        InputError: the folder holds something, is a file, or cannot be written.
    """
    folder = Path(folder)
    check_new_folder(folder)
    beside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with quiet(), _own_generation_config(model, beside):
            model.save_pretrained(beside, max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(beside)
        for name, text in (files or {}).items():
            (beside / name).write_text(text, encoding="utf-8")
        _settle(beside)
        beside.replace(folder)
        _sync(folder.parent)
    except OSError as error:
        raise InputError(f"an export must go where files can be written, but {str(folder)!r}: {error}") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def check_new_folder(folder: str | Path) -> None:
    """Raise InputError unless `folder` is absent or empty."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"an export must go to a new or empty folder, but {str(folder)!r} is a file")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"an export must go to a new or empty folder, but {str(folder)!r} is not empty")


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over the parameters and persistent buffers: name, dtype, shape and bytes, in the order of the names.

    Tied parameters count once, under the name that comes first. The same for a live model and for the model that
    is loaded from its export.
    """
    digest = hashlib.sha256()
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        identity = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tuple(tensor.shape))
        if identity in seen:
            continue
        seen.add(identity)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(memoryview(data.numpy()))
    return digest.hexdigest()


@contextmanager
def _own_generation_config(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """Keep the generation configuration as it is: transformers reads some that it refuses to write."""
    from transformers import GenerationConfig

    own = model.generation_config
    if own is None:
        yield
        return
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own
    own.to_json_file(folder / "generation_config.json")


def _settle(folder: Path) -> None:
    """Give the temporary folder the mode a plain one would have, and wait until all of it is on disk."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
            _sync(path)
    folder.chmod(0o777 & ~mask)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
