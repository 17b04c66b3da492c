"""The parameters of a live model as checkpoint files name and shape them.

transformers fuses some parameters when it loads them: all experts of a Mixtral layer are one tensor. Methods that
look at whole tensors (slerp, ties) would then give other results than on the files. So a live model is seen
through transformers' own inverse of that conversion, as views that share the live parameters' memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from evomerge.engine.headers import MERGEABLE
from evomerge.engine.layers import Place, find_layers, place
from evomerge.engine.readings import equal
from evomerge.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evomerge.engine.checkpoint import Checkpoint

BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|attention\.bias)$")
"""Buffers that old checkpoints hold as if they were weights."""


@dataclass(frozen=True)
class Slot:
    """One parameter, as files hold it.

    Attributes:
        name: as transformers would write it.
        aliases: the names it may have in a file, `name` first: with and without the base model's prefix, and those
            of parameters tied to it.
        place: its layer and its path inside it.
        live: the part of the live model that it is; a view.
    """

    name: str
    aliases: tuple[str, ...]
    place: Place
    live: torch.Tensor


@dataclass(frozen=True)
class Layout:
    """All parameters of a model, and what else its files may hold.

    Attributes:
        slots: one for each parameter, tied ones once, in the model's order.
        num_layers: the number of decoder layers.
        ignored: matches the names of tensors in files that are no parameters.
    """

    slots: tuple[Slot, ...]
    num_layers: int
    ignored: re.Pattern[str]


def layout_of(model: PreTrainedModel) -> Layout:
    """The layout of a model on any device, meta included.

    Raises:
        InputError: its layers cannot be found, or a parameter's conversion cannot be undone by views.
    """
    layers, num_layers = find_layers(model)
    tied: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        tied[id(parameter)].append(name)
    live = {name: (parameter.detach(), tied[id(parameter)]) for name, parameter in model.named_parameters()}
    owners = {_storage(tensor): name for name, (tensor, _) in live.items()}
    slots = []
    covered: Counter[str] = Counter()
    for name, view in file_views(model, {name: tensor for name, (tensor, _) in live.items()}).items():
        owner = owners.get(_storage(view))
        if owner is None:
            raise InputError(f"{type(model).__name__} has {name}, which transformers converts in a way not supported")
        covered[owner] += view.numel()
        whole = view.numel() == live[owner][0].numel()
        names = [name, *(live[owner][1] if whole else ())]
        inside, around = place(name, layers), place(owner, layers)
        where = around if inside.layer is None and around.layer is not None else inside
        slots.append(Slot(name, _aliases(model, names), where, view))
    for name, (tensor, _) in live.items():
        if covered[name] != tensor.numel():
            raise InputError(f"{type(model).__name__} has {name}, which transformers converts in a way not supported")
    return Layout(tuple(slots), num_layers, _ignored(model))


def held_names(checkpoint: Checkpoint, slot: Slot, shape: tuple[int, ...] | None = None) -> tuple[str, ...]:
    """The names under which the checkpoint holds the slot, the preferred one first.

    Args:
        checkpoint: where to look.
        slot: the parameter.
        shape: what it must have; by default the slot's.

    Raises:
        InputError: one of them has another shape or no floating dtype, or they hold different weights.
    """
    held = tuple(alias for alias in slot.aliases if alias in checkpoint.headers)
    for key in held:
        _check_header(checkpoint, key, tuple(slot.live.shape) if shape is None else shape)
    for twin in held[1:]:
        if not equal(checkpoint.reading(held[0]), checkpoint.reading(twin)):
            raise InputError(
                f"model {checkpoint.name!r} ({checkpoint.folder}) must tie {held[0]} and {twin} as the base does, "
                f"but holds different weights for them"
            )
    return held


def check_others(checkpoint: Checkpoint, layout: Layout) -> None:
    """Raise InputError when the files hold a tensor that is neither a parameter nor a buffer of the model."""
    known = {alias for slot in layout.slots for alias in slot.aliases}
    extra = sorted(name for name in checkpoint.headers if name not in known and not layout.ignored.search(name))
    if extra:
        raise InputError(
            f"model {checkpoint.name!r} ({checkpoint.folder}) must hold no other parameters than the base's "
            f"architecture, but holds {extra[0]}{f' and {len(extra) - 1} more' if len(extra) > 1 else ''}"
        )


def lacks(checkpoint: Checkpoint, slot: Slot) -> InputError:
    """The error of a checkpoint without that parameter."""
    return InputError(f"model {checkpoint.name!r} ({checkpoint.folder}) must hold {slot.name}, but lacks it")


class _KeepViews(TorchFunctionMode):
    """Makes `Tensor.contiguous` return its argument, so that slicing and stacking stay views."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.contiguous:
            return args[0]
        return func(*args, **(kwargs or {}))


def checkpoint_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a checkpoint of a live model holds: its parameters, tied ones once, and its persistent buffers."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in names}
    return {**file_views(model, parameters), **buffers}


def file_views(model: PreTrainedModel, live: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Live tensors under the names and in the shapes that files have, whatever the base's own files look like."""
    from transformers.core_model_loading import revert_weight_conversion

    own = model.__dict__.pop("_weight_conversions", None)
    try:
        with _KeepViews():
            views: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(live))
    finally:
        if own is not None:
            model._weight_conversions = own
    return views


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _aliases(model: PreTrainedModel, names: Sequence[str]) -> tuple[str, ...]:
    prefix = f"{model.base_model_prefix}."
    variants = (
        variant for name in names for variant in (name, name.removeprefix(prefix), prefix + name) if prefix != "."
    )
    return tuple(dict.fromkeys([*names, *variants]))


def _ignored(model: PreTrainedModel) -> re.Pattern[str]:
    buffers = [
        rf"(^|\.){re.escape(name.removeprefix(f'{model.base_model_prefix}.'))}$" for name, _ in model.named_buffers()
    ]
    unexpected = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    return re.compile("|".join([BUFFERS.pattern, *buffers, *unexpected]))


def _check_header(checkpoint: Checkpoint, key: str, shape: tuple[int, ...]) -> None:
    header = checkpoint.headers[key]
    if header.shape != shape:
        raise InputError(
            f"model {checkpoint.name!r} ({checkpoint.folder}) must hold {key} in the base's shape {list(shape)}, "
            f"but has {list(header.shape)}"
        )
    if header.dtype not in MERGEABLE:
        raise InputError(
            f"model {checkpoint.name!r} ({checkpoint.folder}) must hold {key} in {', '.join(sorted(MERGEABLE))} "
            f"to be merged, but has {header.dtype}"
        )
