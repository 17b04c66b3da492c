"""Keys and values of a prefix that many rows begin with: run once, then shared by the rows of any batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """Some rows of a cache, in the order given, with repetitions; to be extended once, when they are copied.

    Args:
        cache: shareable.
        rows: indices, int64 [R], on the cache's device.
    """
    new = _mapped(cache, lambda states: states)
    for place, layer in enumerate(new.layers):
        assert isinstance(layer, DynamicLayer)
        if layer.keys is None or layer.values is None:
            continue
        own = rows.to(layer.keys.device)
        if type(layer) is DynamicLayer:
            new.layers[place] = _Picked(layer.keys, layer.values, own)
        else:
            layer.batch_select_indices(own)
    return new


class _Picked(DynamicLayer):  # type: ignore[no-untyped-call]
    """Rows of another layer that are copied as they are extended: once, where picking and then extending copies twice.

    Args:
        keys, values: [B, heads, P, width].
        rows: int64 [R].
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sources = (keys, values)
        self._rows = rows
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all P + T tokens, [R, heads, P + T, width], given those of the T new ones."""
        keys, values = self._sources
        self.keys, self.values = self._extended(keys, key_states), self._extended(values, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """P, and after the update P + T."""
        return (self._sources[0] if self.keys is None else self.keys).shape[-2]

    def _extended(self, source: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        rows, heads, new, width = states.shape
        length = source.shape[2]
        whole = states.new_empty(rows, heads, length + new, width)
        torch.index_select(source, 0, self._rows, out=whole[:, :, :length])
        whole[:, :, length:] = states
        return whole


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
