"""Devices and dtypes, and models that are loaded as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from evomerge.engine.alignment import Alignment

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str) -> torch.device:
    """The device that "auto", "cpu", "cuda", "cuda:i" or "balanced" (of several, the first) names.

    Raises:
        InputError: this machine lacks it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = ("cuda", "", "") if device == "balanced" else device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise InputError(f"device must be auto, cpu, cuda, cuda:i or balanced, but got {device!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise InputError(f"device must be one that this machine has ({count} of cuda), but got {device!r}")
    return torch.device(kind, int(index)) if index else torch.device(kind)


def choose_devices(device: str, alignment: Alignment, dtype: str) -> Mapping[str, torch.device]:
    """Where the modules of a candidate live, by module name ("" is the whole model).

    "balanced" spreads the layers over all GPUs with accelerate's device map, keeping layers whole.

    Raises:
        InputError: as `choose_device`.
    """
    first = choose_device(device)
    if device != "balanced" or torch.cuda.device_count() < 2:
        return {"": first}
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    from evomerge.engine.alignment import skeleton

    model = skeleton(alignment.config, alignment.checkpoints[0])
    whole = list(model._no_split_modules or ())
    room = get_balanced_memory(model, dtype=DTYPES[dtype], no_split_module_classes=whole)
    room = {place: size for place, size in room.items() if place not in ("cpu", "disk")}
    places = infer_auto_device_map(model, room, no_split_module_classes=whole, dtype=DTYPES[dtype])
    if any(place in ("cpu", "disk") for place in places.values()):
        raise InputError("the GPUs must hold the candidate together, but do not")
    return {name: torch.device("cuda", int(place)) for name, place in places.items()}


def load_model(ref: ModelRef, dtype: str = "bfloat16", device: str = "auto") -> PreTrainedModel:
    """The model that `ref` names, with its adapter merged, in eval mode and without gradients.

    Args:
        ref: the model.
        dtype: "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda", "cuda:i" or "balanced".

    Raises:
        InputError: the checkpoint is wrong, or transformers cannot load it as a causal language model.
    """
    from evomerge.engine.materialize import Merger

    return Merger(ref, (), dtype, device).model
