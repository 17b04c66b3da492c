"""Greedy decoding in batches that shrink: a row that has ended leaves the batch.

Shapes: B rows in the batch, H tokens of a shared beginning, W positions of prompts (padded on the left), G tokens
generated so far, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from evomerge.evaluators.stops import END, LOOK, PLAIN, STRANGE, Stops

if TYPE_CHECKING:
    from transformers import Cache

    from evomerge.evaluators.forward import Forward
    from evomerge.evaluators.prefix import Root

# Letting rows leave copies the keys and values of the others. It is done once ended rows have idled for as many steps
# as it costs, counted in steps of one row: a batch's rows divided by this.
LEAVING = {"cpu": 8, "cuda": 4}


class Batch:
    """Prompts and what has been generated after them.

    Args:
        forward: the model.
        prompts: token ids, none of them empty; with a root, each begins with the root's and has more.
        most: tokens that will be generated at most.
        root: None: prompts share no beginning.

    Attributes:
        places: of each row that is still there, its place among the prompts.
    """

    def __init__(self, forward: Forward, prompts: Sequence[Sequence[int]], most: int, root: Root | None = None) -> None:
        self._forward = forward
        self._head = len(root.ids) if root else 0
        rests = [prompt[self._head :] for prompt in prompts]
        width = max(len(rest) for rest in rests)
        self._pads = [width - len(rest) for rest in rests]
        device = forward.device
        self._next = torch.tensor([[0] * (width - len(rest)) + list(rest) for rest in rests], device=device)
        columns = torch.arange(width, device=device)
        self._mask = torch.ones(len(rests), self._head + width + most, dtype=torch.int64, device=device)
        self._mask[:, self._head : self._head + width] = columns >= torch.tensor(self._pads, device=device)[:, None]
        self._length = self._head + width
        config = forward.model.config.get_text_config(decoder=True)
        self._cache: Cache = root.rows(len(rests)) if root else DynamicCache(config=config)
        self.places = list(range(len(rests)))
        self._tokens = torch.zeros(len(rests), most, dtype=torch.int64, device=device)
        self._made = 0

    def __len__(self) -> int:
        return len(self._pads)

    def logits(self) -> torch.Tensor:
        """Of each row's next token, float32 [B, V]; transformers compares logits in float32 too."""
        output = self._forward(self._next, self._mask[:, : self._length], self._cache, keep=1, use_cache=True)
        return output.logits[:, -1].float().to(self._forward.device)

    def append(self, tokens: torch.Tensor) -> None:
        """Let rows go on with `tokens`, int64 [B]."""
        self._tokens[:, self._made] = tokens
        self._made += 1
        self._next = tokens[:, None]
        self._length += 1

    def tokens(self, row: int) -> list[int]:
        """What has been generated in a row, G token ids."""
        return self._tokens[row, : self._made].tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Let all other rows leave, and with them the padding that none of `rows` needs."""
        index = torch.tensor(rows, device=self._next.device)
        self._pads = [self._pads[row] for row in rows]
        self.places = [self.places[row] for row in rows]
        self._next, self._tokens, self._mask = (t[index] for t in (self._next, self._tokens, self._mask))
        self._cache.batch_select_indices(index)
        if spare := self._spare():
            self._pads = [pad - spare for pad in self._pads]
            self._mask = _without(self._mask, self._head, spare, dim=1)
            self._length -= spare
            for layer in self._cache.layers:
                if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
                    layer.keys = _without(layer.keys, self._head, spare, dim=2)
                    layer.values = _without(layer.values, self._head, spare, dim=2)

    def _spare(self) -> int:
        """Columns that are padding in all rows and in the cache still; a sliding window may have lost some."""
        return 0 if any(self._cache.is_sliding) else min(self._pads)


def decode(
    forward: Forward, prompts: Sequence[Sequence[int]], stops: Stops, most: int, root: Root | None = None
) -> list[list[int]] | None:
    """The tokens that follow each prompt, each the likeliest, up to and with the one that ends the row.

    Args:
        forward: the model.
        prompts: token ids, none of them empty; with a root, each begins with the root's and has more.
        stops: what ends a row.
        most: tokens generated at most, from 1.
        root: None: prompts share no beginning.

    Returns:
        1 to `most` token ids for each prompt; None: a row has come to a token that lm-eval treats by what else is in
        the batch (see `stops.STRANGE`).
    """
    batch = Batch(forward, prompts, most, root)
    kinds = stops.kinds(forward.device)
    per_leave = LEAVING.get(forward.device.type, LEAVING["cuda"])
    answers: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    idle = 0
    for step in range(most):
        idle += len(batch) - len(running)
        if idle and idle * per_leave >= len(batch):
            batch.keep(running)
            running = list(range(len(running)))
            idle = 0
        newest = batch.logits().argmax(-1)
        batch.append(newest)
        found = kinds[newest]
        last = step + 1 == most
        if not last and not found.any():
            continue
        of_row = found.tolist()
        if any(of_row[row] == STRANGE for row in running):
            return None
        ended = {row for row in running if last or _ends(of_row[row], batch, row, stops)}
        for row in ended:
            answers[batch.places[row]] = batch.tokens(row)
        running = [row for row in running if row not in ended]
        if not running:
            break
    return answers


def _ends(kind: int, batch: Batch, row: int, stops: Stops) -> bool:
    if kind == PLAIN:
        return False
    return kind == END or (kind == LOOK and stops.stopped(batch.tokens(row)))


def _without(tensor: torch.Tensor, start: int, length: int, dim: int) -> torch.Tensor:
    """The tensor less `length` places from `start` on."""
    rest = tensor.narrow(dim, start + length, tensor.shape[dim] - start - length)
    return torch.cat([tensor.narrow(dim, 0, start), rest], dim) if start else rest
