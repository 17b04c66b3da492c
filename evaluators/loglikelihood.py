"""Log-likelihoods of rows of tokens, in as few forward passes as their common beginnings allow.

Parity: lm-eval's `HFLM.loglikelihood`, to rounding. The softmax is taken in float32 whatever the model's type; lm-eval
takes it in the model's, so that in bfloat16 the two differ by that rounding, too.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from evomerge.evaluators.batches import BatchLimit, in_batches
from evomerge.evaluators.encode import Encoded
from evomerge.evaluators.forward import Forward, PlainForward
from evomerge.evaluators.prefix import Root, picked, shareable
from evomerge.evaluators.stems import LEAST, Stem, in_order, stems_of
from evomerge.evaluators.tensors import StemBatch, Targets, batched, stem_batch

BLOCK = {"cpu": 2**19}  # logits that are turned to log-probabilities at a time: what stays in a core's cache ...
BLOCK_ELSEWHERE = 2**26  # ... and on any other kind of device


Rows = Sequence[Encoded]  # of one request: their log-likelihoods add up


class Answer(NamedTuple):
    """What a request got, as lm-eval has it.

    Attributes:
        loglikelihood: natural logarithm, summed over the scored tokens.
        greedy: whether every scored token was the most likely one.
    """

    loglikelihood: float
    greedy: bool


class Plan:
    """The log-likelihoods of some documents' requests, planned once and run for every candidate.

    Args:
        documents: for each document its requests, each as its rows.
        vocabulary: logits of a position.
        device: where the model takes its tokens.
        root: tokens that many rows begin with; those rows are run on the root's keys and values. Their answers begin
            behind it.
        least: the least share of a document's tokens that is worth another pass.
        cached: whether keys and values may be kept at all; without, only rows that read the same share anything.
        ends: sets of token ids; -1 - k at the end of a row stands for any token of set k.
        greedy: find out whether tokens are the most likely ones; without, no answer is greedy.
    """

    def __init__(
        self,
        documents: Iterable[Sequence[Rows]],
        *,
        vocabulary: int,
        device: torch.device,
        root: tuple[int, ...] = (),
        least: float = LEAST,
        cached: bool = True,
        ends: Sequence[torch.Tensor] = (),
        greedy: bool = True,
    ) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._root = array("i", root if cached else ())
        self._cached = cached
        self._greedy = greedy
        self._ends = [tokens.to(device) for tokens in ends]
        self._numbers: dict[tuple[bytes, int], int] = {}
        self._requests: list[list[int]] = []
        stems = [stem for requests in documents for stem in self._stems_of(requests, least if cached else math.inf)]
        self._stems = in_order(stems)
        self._owners = np.array([owner for stem in self._stems for owner in stem.owners()], dtype=np.int64)
        self._batches: dict[tuple[range, int], StemBatch] = {}

    @property
    def rooted(self) -> bool:
        """Whether any row stands behind the root."""
        return any(stem.rooted for stem in self._stems)

    @property
    def columns(self) -> int:
        """Tokens of the longest row that the model reads, with padding that may stand before it."""
        widest = max((len(stem.ids) for stem in self._stems), default=0)
        return len(self._root) + widest + max((stem.longest - len(stem.ids) for stem in self._stems), default=0)

    def run(self, forward: Forward, limit: BatchLimit, root: Root | None = None) -> list[Answer]:
        """The requests' answers in their order, with the weights that the model has now.

        Args:
            forward: the model.
            limit: the most stems in one pass.
            root: with the weights of now; needed where `rooted`.

        Raises:
            CandidateError: one row alone does not fit into memory.
            TypeError: the model's cache cannot be shared by rows.
        """
        found: list[torch.Tensor] = []
        for together in batched(self._stems, limit.size, self._vocabulary):
            found += in_batches(lambda part: self._run(forward, limit, root, part), together, limit)
        if not found:
            return [Answer(0.0, True) for _ in self._requests]
        values = torch.cat(found).cpu().numpy().astype(np.float64)
        sums, greedy = np.zeros(len(self._numbers)), np.ones(len(self._numbers), dtype=bool)
        np.add.at(sums, self._owners, values[:, 0])
        np.logical_and.at(greedy, self._owners, values[:, 1] > 0)
        return [Answer(float(sums[rows].sum()), bool(greedy[rows].all())) for rows in self._requests]

    def _stems_of(self, requests: Sequence[Rows], least: float) -> Iterator[Stem]:
        """Number a document's rows, those seen before by their old numbers, and find what the new ones share."""
        fresh: dict[bool, list[tuple[int, Encoded]]] = {False: [], True: []}
        for rows in requests:
            numbers = []
            for row in rows:
                key = (row.ids.tobytes(), row.start)
                if key not in self._numbers:
                    self._numbers[key] = len(self._numbers)
                    behind = self._behind_root(row)
                    fresh[behind is not row].append((self._numbers[key], behind))
                numbers.append(self._numbers[key])
            self._requests.append(numbers)
        for rooted, of_kind in fresh.items():
            if of_kind:
                yield from stems_of(of_kind, rooted=rooted, least=least)

    def _behind_root(self, row: Encoded) -> Encoded:
        length = len(self._root)
        if length == 0 or row.start <= length or row.ids[:length] != self._root:
            return row
        return Encoded(row.ids[length:], row.start - length)

    def _run(self, forward: Forward, limit: BatchLimit, root: Root | None, part: Sequence[int]) -> list[torch.Tensor]:
        """For each stem of a run, the log-probabilities of its targets and whether each was the most likely: [n, 2]."""
        assert isinstance(part, range)
        batch = self._batch(part, limit.size)
        rooted = self._stems[part[0]].rooted
        keeps = rooted or bool(batch.rests) or len(batch.pieces) > 1
        cache = None
        if rooted:
            assert root is not None
            cache = root.rows(len(part))
        before = len(self._root) if rooted else 0
        found = []
        run = PlainForward(forward.model) if batch.plain else forward
        for piece in batch.pieces:
            ids, mask = batch.ids[:, piece.begin : piece.end], batch.mask[:, : before + piece.end]
            logits, cache = run(ids, mask, cache, keep=piece.keep, use_cache=keeps)
            found.append(log_probabilities(logits, piece.targets, self._ends, self._greedy))
            del logits
        for rest in batch.rests:
            own = picked(shareable(cache), rest.stems)
            logits = forward(rest.ids, rest.mask, own, keep=rest.ids.shape[1], use_cache=True).logits
            found.append(log_probabilities(logits, rest.targets, self._ends, self._greedy))
            del logits, own
        return list(torch.cat(found)[batch.order].split(batch.counts))  # type: ignore[no-untyped-call]

    def _batch(self, part: range, size: int) -> StemBatch:
        if (part, size) not in self._batches:
            stems = self._stems[part.start : part.stop]
            root = len(self._root) if stems[0].rooted else 0
            self._batches[part, size] = stem_batch(
                stems, root, size, self._vocabulary, self._device, cached=self._cached
            )
        return self._batches[part, size]


def log_probabilities(
    logits: torch.Tensor, targets: Targets, ends: Sequence[torch.Tensor] = (), greedy: bool = True
) -> torch.Tensor:
    """The log-probabilities of tokens, in float32, and whether each token was the most likely one.

    Args:
        logits: [B, K, V], of any floating type.
        targets: N tokens; -1 - k stands for any token of `ends[k]`.
        ends: sets of token ids.
        greedy: look for the most likely tokens.

    Returns:
        [N, 2]: natural logarithms, and 1 where no token was likelier, else 0.
    """
    step = max(1, BLOCK.get(logits.device.type, BLOCK_ELSEWHERE) // logits.shape[-1])
    found = []
    flat = logits.reshape(-1, logits.shape[-1])
    places = targets.rows * logits.shape[1] + targets.columns
    for part, tokens in zip(torch.split(places, step), torch.split(targets.tokens, step), strict=True):
        block = torch.log_softmax(flat.index_select(0, part), dim=-1, dtype=torch.float32)
        scored = block.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
        likeliest = torch.zeros_like(tokens, dtype=torch.bool)
        if greedy:
            likeliest = (scored == block.amax(dim=-1)) & (tokens >= 0)
            (tied,) = likeliest.nonzero(as_tuple=True)  # of several that are likeliest the first counts, as in lm-eval
            likeliest[tied] = block[tied].argmax(dim=-1) == tokens[tied]
        for place, together in enumerate(ends):
            there = tokens == -1 - place
            scored = torch.where(there, block[:, together].logsumexp(dim=-1), scored)
        found.append(torch.stack([scored, likeliest.float()], dim=1))
    return torch.cat(found)
