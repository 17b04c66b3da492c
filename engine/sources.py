"""The parameters of a base and its experts, by slot name, on the device where candidates are computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.engine.checkpoint import Checkpoint
from evomerge.engine.layout import Layout, resolve

CPU_CHUNK = 2**15
"""PyTorch runs loops and reductions up to this size in the calling thread, so sums do not depend on its number of
threads; and some such float32 chunks fit the cache of a core."""

CUDA_CHUNK = 2**24


class CheckpointSources:
    """Base and experts: mapped from their files on CPU, on other devices moved there once and kept.

    Args:
        base: source 0.
        experts: sources 1 to n.
        layout: of the base's model.
        device: where `flat` returns tensors.

    Raises:
        InputError: as `resolve`.
    """

    def __init__(self, base: Checkpoint, experts: Sequence[Checkpoint], layout: Layout, device: torch.device) -> None:
        self._checkpoints = (base, *experts)
        self._keys = [resolve(checkpoint, layout) for checkpoint in self._checkpoints]
        self._device = device
        self._resident: dict[tuple[int, str], torch.Tensor] = {}
        self.experts = tuple(expert.name for expert in experts)
        self.chunk = CPU_CHUNK if device.type == "cpu" else CUDA_CHUNK

    def flat(self, source: int, parameter: str) -> torch.Tensor:
        """One parameter of one source, 1-D, in its stored dtype. Do not write into it."""
        held = self._resident.get((source, parameter))
        if held is None:
            held = self._checkpoints[source].tensor(self._keys[source][parameter]).reshape(-1).to(self._device)
            if self._device.type != "cpu" or not self._checkpoints[source].computes(self._keys[source][parameter]):
                self._resident[source, parameter] = held
        return held
