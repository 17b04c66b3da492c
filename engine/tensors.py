"""Merging of bare tensors, the way the engine does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evomerge.engine.arena import Item, Kind, arrange, width_of
from evomerge.engine.compiled import Launcher
from evomerge.engine.derived import Derived
from evomerge.engine.execute import carry_out
from evomerge.engine.kernels import prepare
from evomerge.engine.method import METHODS
from evomerge.engine.statistics import Statistics
from evomerge.engine.store import Store, Tier
from evomerge.errors import InputError


class TensorReading:
    """A tensor as a source. Args: tensor: any shape and device."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._flat = tensor.detach().reshape(-1)
        self.dtype = tensor.dtype

    def fill(self, out: torch.Tensor, start: int) -> None:
        """Copy elements from `start` on."""
        out.copy_(self._flat[start : start + out.numel()])


def merge_tensors(
    method: str,
    base: torch.Tensor,
    experts: Mapping[str, torch.Tensor],
    parameters: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    launcher: Launcher | None = None,
) -> torch.Tensor:
    """One parameter merged.

    Args:
        method: the name of a merge method.
        base: floating, any shape, on the device where the merge shall run.
        experts: by name; each of the base's shape.
        parameters: of the method: a number, or a number for each expert by name; switches and choices. What is
            not named takes the method's default.
        name: of the parameter; random words depend on it.
        seed: of the random words.
        dtype: of the result.
        launcher: runs the kernels; by default one that compiles what is large enough.

    Returns:
        A tensor in the base's shape, on its device.

    Raises:
        InputError: an unknown method or parameter, a value out of range, another shape than the base's, or weights
            that are not finite.
    """
    for expert, tensor in experts.items():
        if tensor.shape != base.shape:
            raise InputError(
                f"expert {expert!r} must have the base's shape {list(base.shape)}, but has {list(tensor.shape)}"
            )
    chosen = METHODS.get(method)
    given = dict(parameters or {})
    switches = [spec.name for spec in chosen.parameters if spec.kind != "number" and spec.name in given]
    values = chosen.bind(given, {switch: given.pop(switch) for switch in switches}, list(experts))
    store = store_of(base, experts, name, dtype)
    statistics = Statistics(store).of(name, range(len(experts)), seed)
    work = prepare(chosen.plan(statistics, values), statistics.keys(), seed)
    (arena,) = store.arenas
    out = torch.zeros(arena.rows, arena.kind.width, dtype=dtype, device=base.device)
    carry_out(arena, {name: work}, Derived(store).fetch, out, launcher or Launcher())
    return arena.segments[0].view(out)


def store_of(base: torch.Tensor, experts: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype) -> Store:
    """A store of one parameter; arguments as those of `merge_tensors`."""
    sources = (base, *experts.values())
    kind = Kind(width_of(base.numel()), tuple(tensor.dtype for tensor in sources), dtype, base.device)
    arenas = arrange([Item(name, tuple(base.shape), kind)])
    readings = [{name: TensorReading(tensor)} for tensor in sources]
    tiers: list[Tier] = ["device"] * len(sources)
    return Store(arenas, readings, ("base", *experts), tiers)
