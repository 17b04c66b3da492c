"""One number for each layer."""

from __future__ import annotations

from evomerge.spaces.basis import Basis, layer_space


@layer_space("per_layer")
def per_layer(num_layers: int) -> Basis:
    """Every layer has its own numbers: the most freedom, and the most documents needed to use it."""
    return Basis(
        names=tuple(f"layer {layer}" for layer in range(num_layers)),
        matrix=tuple(tuple(float(layer == column) for column in range(num_layers)) for layer in range(num_layers)),
        constant=(1.0,) * num_layers,
    )
