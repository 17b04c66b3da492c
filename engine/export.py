"""A merged model written to a folder that transformers loads, all of it or nothing; and the digest of its weights."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from evomerge.engine.layout import checkpoint_tensors
from evomerge.engine.quiet import quiet
from evomerge.engine.writer import Pieces, TensorSpec, as_bytes, combine, split, write_shards
from evomerge.errors import InputError
from evomerge.sizes import parse_size, readable

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MAX_SHARD = "5GB"
SLACK = 2**25
"""Bytes that tokenizer, configuration and the file system itself may need beside the weights."""

Files = Callable[[str], Mapping[str, str]]
"""From the digest of the weights to the text of further files by name."""


class Contents(NamedTuple):
    """What a checkpoint is to hold.

    Attributes:
        config: of the model.
        generation_config: likewise; None writes none.
        tokenizer: with its chat template; None writes none.
        specs: of all tensors, by the names that files use.
        pieces: gives their data.
    """

    config: PretrainedConfig
    generation_config: GenerationConfig | None
    tokenizer: PreTrainedTokenizerBase | None
    specs: tuple[TensorSpec, ...]
    pieces: Pieces

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs)


def contents_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    config: PretrainedConfig | None = None,
) -> Contents:
    """The checkpoint of a live model.

    Args:
        model: on any device; the files have its parameters' dtypes.
        tokenizer: as in `Contents`.
        tensors: what the files hold; by default the model's parameters and persistent buffers.
        config: by default the model's.
    """
    held = checkpoint_tensors(model) if tensors is None else tensors
    specs = tuple(TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in held.items())
    own = config or model.config
    return Contents(own, model.generation_config, tokenizer, specs, lambda name: split(held[name]))


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    max_shard_size: str = MAX_SHARD,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a live model, its configurations and its tokenizer to `folder`; as `save_contents`.

    Args:
        model: on any device; the files have its parameters' dtypes.
        tokenizer: with its chat template; None writes none.
        folder, max_shard_size: as in `save_contents`.
        files: the text of further files by name.
    """
    return save_contents(contents_of(model, tokenizer), folder, max_shard_size, lambda digest: files or {})


def save_contents(
    contents: Contents, folder: str | Path, max_shard_size: str = MAX_SHARD, files: Files | None = None
) -> Path:
    """Write weights, configuration, generation configuration and tokenizer to `folder`.

    They are written beside it first and moved when all of it is on disk, so that `folder` is complete or absent.

    Args:
        contents: what to write.
        folder: must be absent or empty.
        max_shard_size: of a safetensors file, such as "5GB".
        files: the text of further files; they replace what transformers writes under such a name.

    Returns:
        The folder.

    Raises:
        InputError: the folder holds something, is a file, or cannot be written; or the disk has not enough room.
    """
    folder = Path(folder)
    check_new_folder(folder)
    beside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_room(folder.parent, contents.nbytes)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        digest = write_shards(beside, contents.specs, contents.pieces, parse_size(max_shard_size))
        _write_settings(contents, beside)
        for name, text in (files(digest) if files else {}).items():
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


def check_target(folder: str | Path, nbytes: int = 0) -> None:
    """Check what can be known before anything is merged; writes nothing.

    Args:
        folder: where an export is to go.
        nbytes: what its weights take at least.

    Raises:
        InputError: it is neither absent nor empty, nothing may be written there, or the disk has not enough room.
    """
    check_new_folder(folder)
    place = Path(folder).absolute()
    place = next(parent for parent in (place, *place.parents) if parent.exists())
    if not place.is_dir():
        raise InputError(
            f"an export must go into a folder, but {str(place)!r}, on the way to {str(folder)!r}, is a file"
        )
    above = place.parent if place == Path(folder).absolute() else place
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"an export must go where files may be written, but {str(above)!r} may not be written to")
    check_room(place, nbytes)


def check_room(folder: Path, nbytes: int) -> None:
    """Raise InputError unless the disk of an existing folder has room for weights of so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < nbytes + SLACK:
        raise InputError(
            f"an export needs {readable(nbytes + SLACK)} of free space, but {str(folder)!r} has {readable(free)}"
        )


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over the parameters and persistent buffers as a checkpoint holds them, tied ones once.

    The same for a live model, for its export, and for the model that is loaded from it.
    """
    return tensors_digest(checkpoint_tensors(model))


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The same for a checkpoint's tensors."""
    digests = {}
    for name, tensor in tensors.items():
        digest = hashlib.sha256()
        for piece in split(tensor):
            digest.update(as_bytes(piece))
        digests[name] = digest.digest()
    specs = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    return combine(specs, digests)


def _write_settings(contents: Contents, folder: Path) -> None:
    """Configurations and tokenizer. transformers reads some generation configurations that it refuses to write."""
    with quiet():
        contents.config.save_pretrained(folder)
        if contents.tokenizer is not None:
            contents.tokenizer.save_pretrained(folder)
    if contents.generation_config is not None:
        contents.generation_config.to_json_file(folder / "generation_config.json")


def _settle(folder: Path) -> None:
    """Give the temporary folder the mode a plain one would have, and wait until all of it is on disk."""
    mask = os.umask(0)
    os.umask(mask)
    for path in _files(folder):
        path.chmod(0o666 & ~mask)
        _sync(path)
    folder.chmod(0o777 & ~mask)
    _sync(folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
