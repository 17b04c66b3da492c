"""A causal language model as a function of padded batches of tokens, with its keys and values kept where wanted.

Shapes: B rows, T new tokens, P tokens whose keys and values are there already, K positions whose logits are wanted,
V tokens in the vocabulary. Padding may stand anywhere: positions count tokens alone. On the left it lets all rows end
at the last position; on the right it lets them go on where their cached tokens end.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class Output(NamedTuple):
    """What a forward pass gives: logits [B, K, V] of the last K positions, and the cache of all P + T positions."""

    logits: torch.Tensor
    cache: Cache | None


def embeddings(model: PreTrainedModel) -> int:
    """How many token ids a model knows."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


class Forward:
    """Calls a model with whichever of mask, positions and cut of the logits it takes.

    Args:
        model: a causal language model in evaluation mode, on whichever device.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._takes = set(inspect.signature(model.forward).parameters)
        self._columns: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where tokens have to be."""
        return self.model.device

    @property
    def vocabulary(self) -> int:
        """V, by the model's input."""
        return embeddings(self.model)

    def __call__(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: Cache | None = None,
        *,
        keep: int = 1,
        use_cache: bool = False,
    ) -> Output:
        """One forward pass.

        Args:
            ids: token ids, int64 [B, T], padded with any id.
            mask: 1 where there is a token, 0 where there is padding, int64 [B, P + T]; with a sliding window, padding
                between tokens takes up room in it.
            cache: of the P tokens before, written in place; None: P is 0.
            keep: K, the number of last positions whose logits are wanted, from 1 to T.
            use_cache: return keys and values.
        """
        arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": use_cache}
        if "position_ids" in self._takes:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if cache is not None:
            arguments["past_key_values"] = cache
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = self._kept(keep, ids.shape[1])
        output = self.model(**arguments)
        return Output(output.logits[:, -keep:], output.past_key_values if use_cache else None)

    def _kept(self, keep: int, columns: int) -> int | torch.Tensor:
        """The columns whose logits are wanted, by number, so that the model copies them out of its hidden states.

        A number of last columns is cut out as a view, and torch multiplies a view by weights without gradients as a
        batch: on CPU with a copy of the weights for every row.
        """
        if keep == columns:
            return keep
        if (keep, columns) not in self._columns:
            devices = set((getattr(self.model, "hf_device_map", None) or {}).values())
            place = torch.device("cpu") if len(devices) > 1 else self.device
            self._columns[keep, columns] = torch.arange(columns - keep, columns, device=place)
        return self._columns[keep, columns]


class PlainForward(Forward):
    """The model as lm-eval calls it: tokens and nothing else. Padding stands on the right; there is no cache."""

    def __call__(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        cache: Cache | None = None,
        *,
        keep: int = 1,
        use_cache: bool = False,
    ) -> Output:
        """One forward pass, without the mask; logits of padding mean nothing."""
        return Output(self.model(input_ids=ids).logits[:, -keep:], None)
