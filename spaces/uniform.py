"""One number for all layers."""

from __future__ import annotations

from evomerge.spaces.basis import Basis, layer_space


@layer_space("uniform")
def uniform(num_layers: int) -> Basis:
    """The whole model, embeddings and head included, shares its numbers: the fewest dimensions."""
    return Basis(names=("",), matrix=((1.0,),) * num_layers, constant=(1.0,))
