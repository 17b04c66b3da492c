"""Checkpoints: folders of safetensors, local or from the hub, read when they are used. Pickles are never opened."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.engine.code import check_config, code_notes
from evomerge.engine.headers import MERGEABLE, TensorHeader, read_header
from evomerge.engine.places import check_links, inside
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.plain import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from evomerge.engine.readings import Reading, WeightFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GGUF = ".gguf"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
HUB_DUPLICATES = ["consolidated*", "original/*"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)
READ_SIZE = 2**22


class Checkpoint:
    """The weights, configuration and tokenizer of one model; weights are read when they are used.

    Args:
        ref: where it comes from.
        folder: the local folder that holds it.
        notes: what the user should know of how it came there.

    Attributes:
        headers: shape and dtype of each tensor by name, from the files' headers alone.
        notes: one line each, for the user.

    Raises:
        InputError: the folder has no safetensors, or an index or a file is wrong.
    """

    def __init__(self, ref: ModelRef, folder: Path, notes: tuple[str, ...] = ()) -> None:
        self.ref = ref
        self.folder = folder
        check_links(folder)
        self.notes = (*notes, *code_notes(ref, folder))
        self._files = _weight_files(folder)
        self.headers: dict[str, TensorHeader] = {}
        self._shards: dict[str, Path] = {}
        for path, listed in self._files.items():
            self._add_shard(path, listed)
        self._open: dict[Path, WeightFile] = {}

    @property
    def name(self) -> str:
        """The reference's name."""
        return self.ref.name

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, in alphabetical order."""
        return tuple(sorted(self.headers))

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor on CPU, in memory of its own. Raises InputError as `reading`, or when it cannot be read."""
        from evomerge.engine.readings import whole

        return whole(self.reading(name))

    def reading(self, name: str) -> Reading:
        """One tensor, to be read piece by piece.

        Raises:
            InputError: the checkpoint has no such tensor, or it is not of a floating dtype.
        """
        header = self.headers.get(name)
        if header is None:
            raise InputError(f"{self.folder} must hold the parameter {name}, but lacks it")
        if header.dtype not in MERGEABLE:
            raise InputError(
                f"{self.folder}: {name} must be one of {', '.join(sorted(MERGEABLE))} to be merged, "
                f"but is {header.dtype}"
            )
        return self._stored(self._shards[name], header)

    def data(self, name: str) -> bytes:
        """The bytes of one tensor of any dtype, as its file holds them."""
        data = bytearray(self.headers[name].nbytes)
        self._opened(self._shards[name]).read_into(memoryview(data), self.headers[name].offset)
        return bytes(data)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says. Raises InputError when it is missing or no JSON object."""
        path = self.folder / "config.json"
        config = read_json(path, "a model's configuration", finite=False)
        if not isinstance(config, dict):
            raise InputError(f"{path} must be a JSON object, but is {type(config).__name__}")
        return config

    @cached_property
    def pretrained_config(self) -> PretrainedConfig:
        """The configuration as transformers reads it. Raises InputError when it does not know such models."""
        from transformers import CONFIG_MAPPING, AutoConfig

        kind = self.config.get("model_type")
        if not kind or not isinstance(kind, str):
            raise InputError(f"{self.folder}/config.json must name a model_type, but names none")
        if kind not in CONFIG_MAPPING and self.config.get("auto_map") and not self.ref.trust_remote_code:
            raise InputError(
                f"{self.folder}/config.json must be of a kind that transformers knows, but {kind!r:.100} is code of "
                f"the model's own (auto_map), which runs only with trust_remote_code: true for {self.name!r}"
            )
        check_config(self.config, self.ref, self.folder / "config.json", len(self.headers))
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=self.ref.trust_remote_code
            )
        except Exception as error:
            raise InputError(
                f"{self.folder}/config.json must be readable by transformers, but: {first_line(error)}"
            ) from None
        return config

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder holds a tokenizer's files."""
        return any((self.folder / name).is_file() for name in TOKENIZER_FILES)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer. Raises InputError when there is none or it cannot be loaded."""
        from transformers import AutoTokenizer

        if not self.has_tokenizer:
            raise InputError(f"{self.folder} must hold a tokenizer, but has none of {', '.join(TOKENIZER_FILES)}")
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=self.ref.trust_remote_code
            )
        except Exception as error:
            raise InputError(f"{self.folder} must hold a tokenizer that loads, but: {first_line(error)}") from None
        return tokenizer

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """The id of each token of the tokenizer. Raises as `tokenizer`."""
        ids: dict[str, int] = self.tokenizer().get_vocab()
        return ids

    def digest(self) -> str:
        """SHA-256 over the weight files: each one's name, size and bytes, in the order of their names."""
        return _files_digest(self.weight_files)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All files that weights are read from."""
        return tuple(self._files)

    def _add_shard(self, path: Path, listed: frozenset[str] | None) -> None:
        found = read_header(path)
        missing = sorted((listed or frozenset()) - found.keys())
        if missing:
            raise InputError(f"{path} must hold {missing[0]}, as {INDEX} says, but lacks it")
        for name, header in found.items():
            if name in self.headers:
                raise InputError(f"{self.folder} must hold each tensor once, but {name} is in two shards")
            self.headers[name] = header
            self._shards[name] = path

    def _stored(self, path: Path, header: TensorHeader) -> Reading:
        from evomerge.engine.readings import StoredReading

        return StoredReading(self._opened(path), header)

    def _opened(self, path: Path) -> WeightFile:
        from evomerge.engine.readings import WeightFile

        return self._open.setdefault(path, WeightFile(path))


def open_checkpoint(ref: ModelRef) -> Checkpoint:
    """The checkpoint that `ref` names, with its adapter if it has one. A hub id is downloaded, or taken from the cache.

    A GGUF file, or a folder that holds one and no safetensors, is converted once (`evomerge.engine.gguf`).

    Raises:
        InputError: there is no such folder, file or repository, or what it holds is wrong.
    """
    folder = locate(ref.model, ref.revision, code=ref.trust_remote_code)
    notes: tuple[str, ...] = ()
    quantized = gguf_file(folder)
    if quantized is not None:
        from evomerge.engine.gguf import converted

        folder, notes = converted(quantized)
    if ref.adapter is None:
        return Checkpoint(ref, folder, notes)
    from evomerge.engine.adapter import AdaptedCheckpoint

    return AdaptedCheckpoint(ref, folder, locate(ref.adapter, None), notes)


def gguf_file(place: Path) -> Path | None:
    """The GGUF file that `place` is, or that it holds as its only weights; else None.

    Raises:
        InputError: the folder holds several, and no safetensors.
    """
    if place.is_file():
        return place
    if any(place.glob("*.safetensors")) or (place / INDEX).exists():
        return None
    found = sorted(place.glob(f"*{GGUF}"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:3])
        raise InputError(f"{place} must hold one {GGUF} file, but holds {len(found)} ({names}); name the file itself")
    return found[0] if found else None


def locate(source: str, revision: str | None, *, code: bool = False) -> Path:
    """The local folder of a path or hub id, or a GGUF file. Weights other than safetensors are not downloaded.

    Args:
        source: a folder, a GGUF file, or a hub id.
        revision: branch, tag or commit on the hub.
        code: whether Python files are wanted too.

    Raises:
        InputError: there is neither such a folder nor such a repository.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix == GGUF):
            return path
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, or nobody's home
        raise InputError(f"a model must be a folder or a hub id, but {source!r:.200}: {first_line(error)}") from None
    if exists:
        raise InputError(f"a model must be a folder, a {GGUF} file or a hub id, but {source!r} is a file")
    if source.startswith((".", "/", "~")) or not HUB_ID.fullmatch(source):
        raise InputError(f"a model must be a folder or a hub id, but there is no folder {source!r}{_nearest(path)}")
    from huggingface_hub import snapshot_download

    try:
        patterns = HUB_FILES + ["*.py"] * code
        return Path(
            snapshot_download(source, revision=revision, allow_patterns=patterns, ignore_patterns=HUB_DUPLICATES)
        )
    except Exception as error:
        where = f"{source!r}{f' at {revision!r}' if revision else ''}"
        raise InputError(
            f"a model must be a folder or a hub id, but there is no folder {where}{_nearest(path)}, "
            f"and the hub gave none: {first_line(error)}"
        ) from None


def _files_digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(READ_SIZE):
                digest.update(piece)
    return digest.hexdigest()


def _weight_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """The weight files, each with the names that the index lists for it (None without an index)."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"{folder} must hold {SINGLE} or {INDEX}; pickles such as {pickles[0]} can run code and are refused"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"has only {', '.join(others[:3])}" if others else "has no safetensors"
    raise InputError(f"{folder} must hold {SINGLE} or {INDEX}, but {found}")


def _indexed_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    index = folder / INDEX
    content = read_json(index, "JSON with a `weight_map`")
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise InputError(f"{index} must be JSON with a `weight_map` from tensors to files, but is not")
    listed: dict[str, set[str]] = {}
    for name, file in places.items():
        listed.setdefault(file, set()).add(name)
    return {_shard(folder, index, file): frozenset(listed[file]) for file in sorted(listed)}


def _shard(folder: Path, index: Path, file: str) -> Path:
    path = inside(folder, file)
    if path is None or path.suffix != ".safetensors":
        raise InputError(f"{index} must name .safetensors files inside its folder, but names {file!r:.300}")
    if not path.is_file():
        raise InputError(f"{index} names the shard {file}, but {folder} has no such file")
    return path


def _nearest(path: Path) -> str:
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix == GGUF]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.5)
    return f" (did you mean {str(path.parent / near[0])!r}?)" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
