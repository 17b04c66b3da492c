"""Keys and values of a prefix that many rows begin with: run once, then shared by the rows of any batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import Cache

    from evomerge.evaluators.forward import Forward

_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)  # keys and values by row and position, and nothing else


class Root(NamedTuple):
    """A prefix with its keys and values.

    Attributes:
        ids: the prefix's token ids.
        cache: of one row; not to be written to: take `rows`.
    """

    ids: tuple[int, ...]
    cache: Cache

    def rows(self, count: int) -> Cache:
        """A cache of `count` rows that all begin with the prefix, to be extended; keys and values are shared."""
        return _mapped(self.cache, lambda states: states.expand(count, *states.shape[1:]))


def run_root(forward: Forward, ids: Sequence[int]) -> Root:
    """The root of a prefix, with the weights that the model has now.

    Raises:
        TypeError: the model's cache cannot be shared by rows.
    """
    row = torch.tensor([list(ids)], device=forward.device)
    return Root(tuple(ids), shareable(forward(row, torch.ones_like(row), use_cache=True).cache))


def shareable(cache: Cache | None) -> Cache:
    """The same cache. Raises TypeError if it holds more than keys and values by row and position."""
    if type(cache) is not DynamicCache or any(type(layer) not in _LAYERS for layer in cache.layers):
        kinds = sorted({type(layer).__name__ for layer in getattr(cache, "layers", ())})
        raise TypeError(f"a cache must be of keys and values alone, but is {type(cache).__name__} of {kinds}")
    return cache


def picked(cache: Cache, rows: torch.Tensor) -> Cache:
    """A copy of some rows of a cache, in the order given, with repetitions.

    Args:
        cache: shareable.
        rows: indices, int64 [R], on the cache's device.
    """
    return _mapped(cache, lambda states: states.index_select(0, rows.to(states.device)))


def common_prefix(sequences: Iterable[Sequence[int]]) -> int:
    """How many first tokens all sequences have in common; 0 without any sequence."""
    # The least and the greatest in the order of lists differ no later than any two others.
    ordered = [list(sequence) for sequence in sequences]
    if not ordered:
        return 0
    least, greatest = min(ordered), max(ordered)
    shared = min(len(least), len(greatest))
    return next((place for place in range(shared) if least[place] != greatest[place]), shared)


def _mapped(cache: Cache, change: Callable[[torch.Tensor], torch.Tensor]) -> Cache:
    """A cache with the same bookkeeping and changed keys and values."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        assert isinstance(layer, DynamicLayer)
        if layer.keys is not None and layer.values is not None:  # a layer may use another one's
            layer.keys, layer.values = change(layer.keys), change(layer.values)
    return new
