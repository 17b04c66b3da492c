"""The live model that candidates are written into: its parameters are views of arenas, so that kernels write them
in place.

A parameter that transformers fuses from several in the files, whose rows would not start where an arena's do, has
memory of its own; its parts are copied there after each merge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from evomerge.engine.alignment import TOKEN_IDS, Alignment, Reading
from evomerge.engine.arena import Arena, Item, Kind, Segment, arrange, width_of
from evomerge.engine.layout import Layout, Slot, file_views, layout_of
from evomerge.engine.quiet import quiet
from evomerge.engine.readings import DTYPES
from evomerge.errors import InputError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

    from evomerge.engine.checkpoint import Checkpoint

DeviceMap = Mapping[str, torch.device]
"""Where the modules of a model live, by name; "" is the whole model."""


class LiveModel:
    """A transformers model in eval mode, without gradients, whose weights kernels can write.

    Args:
        alignment: gives configuration, buffers and the sources' dtypes.
        dtype: of its parameters.
        devices: where its modules live.

    Attributes:
        model: the model; its parameters have no memory before `allocate`.
        layout: its parameters, as files hold them.
        arenas: how they are laid out.
        outs: [rows, width] of each arena: where results are written.
    """

    def __init__(self, alignment: Alignment, dtype: torch.dtype, devices: DeviceMap) -> None:
        self.model: PreTrainedModel = _empty(alignment, dtype)
        self.layout: Layout = layout_of(self.model)
        owners = _owners(self.model, self.layout)
        items = [
            _item(slot, parameter.dtype, alignment.readings, device_of(name, devices))
            for name, parameter, slots in owners
            for slot in slots
        ]
        self.arenas = arrange(items)
        self.outs: list[torch.Tensor] = []
        self._owners, self._devices = owners, devices
        self._own: list[str] = []
        _move_buffers(self.model, alignment, dtype, devices)

    def allocate(self) -> None:
        """Give the parameters memory; what they hold is not set."""
        self.outs = [torch.zeros(a.rows, a.kind.width, dtype=a.kind.out, device=a.kind.device) for a in self.arenas]
        self._own = self._give_memory(self._owners, self._devices)
        self._owners = []
        if len(set(self._devices.values())) > 1:
            from accelerate import dispatch_model

            dispatch_model(self.model, dict(self._devices), force_hooks=True)

    def settle(self) -> None:
        """Copy what kernels wrote for parameters that have memory of their own."""
        if not self._own:
            return
        segments = {s.name: s.view(out) for a, out in zip(self.arenas, self.outs, strict=True) for s in a.segments}
        for name, view in self.views().items():
            if name in self._own:
                view.copy_(segments[name])

    def views(self) -> dict[str, torch.Tensor]:
        """The parameters by the names and in the shapes that files have, as views of the live ones."""
        return file_views(self.model, {name: parameter.detach() for name, parameter in self.model.named_parameters()})

    def _give_memory(self, owners: Sequence[Owner], devices: DeviceMap) -> list[str]:
        """Replace the parameters on the meta device; returns the slots whose results have to be copied."""
        places = {s.name: (a, s, out) for a, out in zip(self.arenas, self.outs, strict=True) for s in a.segments}
        fresh, copied = {}, []
        for name, parameter, slots in owners:
            data = _shared(parameter, slots, places)
            if data is None:
                data = torch.empty(parameter.shape, dtype=parameter.dtype, device=device_of(name, devices))
                copied += [slot.name for slot in slots]
            fresh[id(parameter)] = torch.nn.Parameter(data, requires_grad=False)
        for module in self.model.modules():
            for name, old in module._parameters.items():
                if old is not None:
                    module._parameters[name] = fresh[id(old)]
        return copied


Owner = tuple[str, torch.nn.Parameter, list[Slot]]
"""A live parameter's name, itself, and the slots that it consists of, in the order of their memory."""


def device_of(name: str, devices: DeviceMap) -> torch.device:
    """The device of a parameter, buffer or module: that of the longest module name that its own starts with."""
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        device = devices.get(".".join(parts[:length]))
        if device is not None:
            return device
    raise KeyError(name)


def _empty(alignment: Alignment, dtype: torch.dtype) -> PreTrainedModel:
    """The model with real buffers, and parameters on the meta device."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    base = alignment.checkpoints[0]
    with quiet(), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            alignment.config, dtype=dtype, trust_remote_code=base.ref.trust_remote_code
        )
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if _stays_float32(model, name, dtype):
            parameter.data = parameter.data.float()
    if (base.folder / "generation_config.json").is_file():
        model.generation_config = _generation_config(base)
    _take_token_ids(model, base.pretrained_config)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = dtype
    model.train(False).requires_grad_(False)
    return model


def _stays_float32(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Whether transformers keeps a parameter or buffer in float32 when it loads a model of this class in `dtype`."""
    kept = set(model._keep_in_fp32_modules_strict or ())
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    return any(re.search(rf"(^|\.){module}($|\.)", name) for module in kept)


def _generation_config(base: Checkpoint) -> GenerationConfig:
    from transformers import GenerationConfig

    from evomerge.engine.checkpoint import first_line

    try:
        with quiet():
            return GenerationConfig.from_pretrained(base.folder)
    except Exception as error:
        raise InputError(
            f"{base.folder}/generation_config.json must be readable by transformers, but: {first_line(error)}"
        ) from None


def _take_token_ids(model: PreTrainedModel, base: PretrainedConfig) -> None:
    """Where the candidate has another tokenizer than the base, generation stops at that one's tokens."""
    for key in TOKEN_IDS:
        own = getattr(model.config, key, None)
        if own != getattr(base, key, None):
            setattr(model.generation_config, key, own)


def _owners(model: PreTrainedModel, layout: Layout) -> list[Owner]:
    slots: dict[int, list[Slot]] = {}
    for slot in layout.slots:
        slots.setdefault(slot.live.untyped_storage()._cdata, []).append(slot)
    return [
        (
            name,
            parameter,
            sorted(slots[parameter.untyped_storage()._cdata], key=lambda slot: slot.live.storage_offset()),
        )
        for name, parameter in model.named_parameters()
    ]


def _item(slot: Slot, dtype: torch.dtype, readings: Sequence[Mapping[str, Reading]], device: torch.device) -> Item:
    dtypes = tuple(reading[slot.name].dtype for reading in readings)
    shape = tuple(slot.live.shape)
    return Item(slot.name, shape, Kind(width_of(slot.live.numel()), dtypes, dtype, device))


def _shared(
    parameter: torch.nn.Parameter,
    slots: Sequence[Slot],
    places: Mapping[str, tuple[Arena, Segment, torch.Tensor]],
) -> torch.Tensor | None:
    """The parameter as a view of its arena, where its slots lie there one after the other without padding."""
    arena, first, out = places[slots[0].name]
    begin, expected = first.first * arena.kind.width, 0
    for slot in slots:
        held, segment, _ = places[slot.name]
        at = segment.first * arena.kind.width - begin
        if (
            held is not arena
            or not slot.live.is_contiguous()
            or slot.live.storage_offset() != expected
            or at != expected
        ):
            return None
        expected += slot.live.numel()
    return out.view(-1)[begin : begin + parameter.numel()].view(parameter.shape)


def _move_buffers(model: PreTrainedModel, alignment: Alignment, own: torch.dtype, devices: DeviceMap) -> None:
    """Bring buffers to their devices; those in the base's files take their values. `own` is the model's dtype."""
    base = alignment.checkpoints[0]
    persistent = set(model.state_dict()) & set(base.headers) - {name for name, _ in model.named_parameters()}
    for name, buffer in list(model.named_buffers()):
        owner, _, last = name.rpartition(".")
        value = _stored(base, name) if name in persistent else buffer
        dtype = torch.float32 if _stays_float32(model, name, own) else buffer.dtype
        model.get_submodule(owner)._buffers[last] = value.to(device_of(name, devices), dtype)


def _stored(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A tensor of any dtype that a checkpoint's files hold."""
    shape, dtype = checkpoint.headers[name].shape, checkpoint.headers[name].dtype
    return torch.frombuffer(bytearray(checkpoint.data(name)), dtype=_BUFFERS[dtype]).view(shape)


_BUFFERS = {
    **DTYPES, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
