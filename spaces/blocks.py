"""One number for each run of neighbouring layers."""

from __future__ import annotations

from evomerge.errors import InputError
from evomerge.spaces.basis import Basis, layer_space


@layer_space("blocks")
def blocks(num_layers: int, *, blocks: int = 5) -> Basis:
    """Cut the depth into `blocks` runs of layers, equally long to within one layer.

    Raises:
        InputError: unless 1 <= blocks <= num_layers.
    """
    if not 1 <= blocks <= num_layers:
        raise InputError(f"space.blocks must be from 1 to the number of layers ({num_layers}), but got {blocks}")
    cuts = [round(block * num_layers / blocks) for block in range(blocks + 1)]
    of_layer = [block for block in range(blocks) for _ in range(cuts[block], cuts[block + 1])]
    return Basis(
        names=tuple(f"layers {cuts[block]}-{cuts[block + 1] - 1}" for block in range(blocks)),
        matrix=tuple(tuple(float(block == column) for column in range(blocks)) for block in of_layer),
        constant=(1.0,) * blocks,
    )
