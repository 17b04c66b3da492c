"""GGUF files as checkpoints: read by transformers once, and kept as float32 safetensors in a cache.

A GGUF file's values are exact in float32, whatever it quantizes them to, so nothing is rounded on the way.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.caches import CACHE, cache_folder
from evomerge.engine.checkpoint import first_line
from evomerge.engine.gguf_header import check_gguf
from evomerge.engine.quiet import quiet
from evomerge.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORD = "gguf.json"
"""Says of a conversion which file it is of, and what the user should know."""

ROTARY = re.compile(r"(^|\.)rope_(freqs|factors_\w+)\.weight$")
"""Tables of rotary frequencies: no weights, and not read by transformers."""


def converted(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that holds `path` as safetensors with configuration and tokenizer, and notes for the user.

    The folder is $EVOMERGE_CACHE/gguf/DIGEST, by default in ~/.cache/evomerge, for a digest of the file's path, size
    and time and of the version of transformers. It is complete or absent; whoever comes first converts.

    Raises:
        InputError: the packages that read GGUF are missing, transformers cannot read the file or would leave some of
            its weights out, or the cache cannot be written.
    """
    from filelock import FileLock

    folder = cache_folder() / "gguf" / _digest(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                _convert(path, folder)
        record = json.loads((folder / RECORD).read_text())
    except OSError as error:
        raise InputError(f"{folder.parent} must be writable, to convert {path} (${CACHE} moves it): {error}") from None
    return folder, tuple(record["notes"])


def _digest(path: Path) -> str:
    import transformers

    state = path.resolve().stat()
    text = "\0".join(map(str, (path.resolve(), state.st_size, state.st_mtime_ns, transformers.__version__)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _convert(path: Path, folder: Path) -> None:
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with quiet():
            model, tokenizer = _load(path)
            notes = [f"{path.name}: converted to float32 in {folder}", *_left_out(path, model)]
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        (beside / RECORD).write_text(json.dumps({"source": str(path.resolve()), "notes": notes}))
        beside.chmod(0o755)
        beside.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _load(path: Path) -> tuple[PreTrainedModel, Any]:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise InputError(f"{path} is a GGUF file, but the package that reads it is missing: pip install gguf") from None
    check_gguf(path)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:
        raise InputError(f"{path} must be a GGUF file that transformers reads, but: {first_line(error)}") from None
    model, loading = loaded
    if loading["missing_keys"]:
        raise InputError(f"{path} must hold {min(loading['missing_keys'])}, but lacks it")
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)  # the weights are plain ones by now, and saved as such
    return model, tokenizer


def _left_out(path: Path, model: PreTrainedModel) -> list[str]:
    """Notes on what transformers has not read. Raises InputError when weights are among it."""
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_elements) for tensor in GGUFReader(path).tensors}
    tables = [name for name in sizes if ROTARY.search(name)]
    held = sum(size for name, size in sizes.items() if name not in tables)
    read = sum(parameter.numel() for parameter in model.parameters())
    if held not in (read, read + sizes.get("output.weight", 0)):
        raise InputError(
            f"{path} must hold the weights that transformers reads, but holds {held} numbers, of which it reads "
            f"{read}: it does not know some of the file's tensors"
        )
    return [f"{path.name}: {name} is not read by transformers; long contexts may differ" for name in tables]
