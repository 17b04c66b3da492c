"""The live model that candidates are written into, and its skeleton without weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from evomerge.engine.checkpoint import Checkpoint, first_line, open_checkpoint
from evomerge.engine.layout import layout_of, resolve
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str) -> torch.device:
    """The device that "auto", "cpu", "cuda" or "cuda:i" names. Raises InputError when this machine lacks it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise InputError(f"device must be auto, cpu, cuda or cuda:i, but got {device!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise InputError(f"device must be one that this machine has ({count} of cuda), but got {device!r}")
    return torch.device(device)


def load_model(ref: ModelRef, dtype: str = "bfloat16", device: str = "auto") -> PreTrainedModel:
    """The model that `ref` names, with its adapter merged, in eval mode and without gradients.

    Args:
        ref: the model.
        dtype: "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda" or "cuda:i".

    Raises:
        InputError: the checkpoint is wrong, or transformers cannot load it as a causal language model.
    """
    return live_model(open_checkpoint(ref), dtype, choose_device(device))


def live_model(checkpoint: Checkpoint, dtype: str, device: torch.device) -> PreTrainedModel:
    """As `load_model`, for a checkpoint that is open."""
    from transformers import AutoModelForCausalLM

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    model, loading = _built(
        checkpoint,
        lambda: AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=checkpoint.ref.trust_remote_code,
        ),
    )
    if loading["missing_keys"]:
        raise InputError(f"{checkpoint.folder} must hold {min(loading['missing_keys'])}, but lacks it")
    model.train(False).requires_grad_(False)
    if checkpoint.ref.adapter is not None:
        layout = layout_of(model)
        keys = resolve(checkpoint, layout)
        for slot in layout.slots:
            if checkpoint.alters(keys[slot.name]):
                slot.live.copy_(checkpoint.tensor(keys[slot.name]))
    moved: PreTrainedModel = model.to(device)
    return moved


def skeleton(checkpoint: Checkpoint) -> PreTrainedModel:
    """The checkpoint's model on the meta device: names, shapes and ties, but no weights. Raises as `load_model`."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = _built(
            checkpoint,
            lambda: AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                checkpoint.pretrained_config, trust_remote_code=checkpoint.ref.trust_remote_code
            ),
        )
    return model


def _built(checkpoint: Checkpoint, build: Callable[[], Any]) -> Any:
    if checkpoint.config.get("quantization_config") is not None:
        raise InputError(f"{checkpoint.folder} must hold unquantized weights, but its config has quantization_config")
    try:
        with quiet():
            return build()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{checkpoint.folder} must be a causal language model, but: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, and its log below errors."""
    from transformers.utils import logging as transformers_logging

    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
