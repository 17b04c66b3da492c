"""A guard against collapsed candidates: a look at their perplexity on a few prompts before anything dear is scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CandidateError, EvomergeError
from evomerge.evaluators.batches import BatchLimit, in_batches
from evomerge.evaluators.forward import Forward, embeddings
from evomerge.evaluators.padding import left_padded, rows_that_fit
from evomerge.evaluators.quiet import quiet
from evomerge.evaluators.taskfiles import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST = 256  # tokens of a text that count
BATCH = 32


class CollapsedError(CandidateError):
    """The candidate gives numbers, but no language is left in it."""


class Guard:
    """Tells candidates apart from which no language is left.

    Args:
        texts: a few prompts; each counts with its first 256 tokens, and not at all with fewer than two.
        tokenizer: of all candidates.
        factor: how many times the worst source's perplexity a candidate's may be, above 1.

    Without a text that counts everything passes, and so do encoder-decoder models.
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, factor: float) -> None:
        rows = [list(tokenizer(text)["input_ids"])[:LONGEST] for text in texts]
        self._rows = sorted((row for row in rows if len(row) > 1), key=len, reverse=True)
        self._factor = factor
        self._worst = -math.inf

    def refer(self, model: PreTrainedModel) -> None:
        """Take note of a source, whose weights `model` has now; one without a finite perplexity sets no bound.

        Raises:
            CandidateError: the model fails on the texts.
        """
        perplexity = self.perplexity(model)
        if math.isfinite(perplexity):
            self._worst = max(self._worst, perplexity)

    def check(self, model: PreTrainedModel) -> None:
        """Look at a candidate, whose weights `model` has now.

        Before any source is noted, only that its perplexity is finite.

        Raises:
            CollapsedError: the perplexity is too high.
            CandidateError: the perplexity is not finite, or the model fails on the texts.
        """
        if not self._rows or model.config.is_encoder_decoder:
            return
        perplexity = self.perplexity(model)
        if not math.isfinite(perplexity):
            raise CandidateError(f"perplexity on {len(self._rows)} prompts must be finite, but is {perplexity}")
        if self._worst > 0 and perplexity > self._factor * self._worst:
            raise CollapsedError(
                f"collapsed: perplexity {perplexity:.4g} on {len(self._rows)} prompts is "
                f"{perplexity / self._worst:.3g} times that of the worst source; the guard allows {self._factor:g}"
            )

    def perplexity(self, model: PreTrainedModel) -> float:
        """exp of the mean negative log-likelihood of a token, its text's first ones apart; NaN without any text."""
        if not self._rows or model.config.is_encoder_decoder:
            return math.nan
        forward = Forward(model.eval())  # type: ignore[no-untyped-call]
        limit = BatchLimit(rows_that_fit(self._rows, embeddings(model), BATCH))
        try:
            with quiet(), torch.no_grad():
                losses = in_batches(lambda rows: _losses(forward, rows), self._rows, limit)
        except EvomergeError:
            raise
        except Exception as error:
            raise CandidateError(f"the guard's prompts cannot be scored: {one_line(error)}") from error
        mean = sum(losses) / sum(len(row) - 1 for row in self._rows)
        return math.exp(mean) if mean < 700 else mean * math.inf  # exp(710) is beyond float64; NaN stays NaN


def _losses(forward: Forward, rows: Sequence[Sequence[int]]) -> list[float]:
    """Of each row the negative log-likelihood of its tokens but the first, in nats."""
    ids, mask = left_padded(rows, forward.device)
    logits = forward(ids, mask, keep=ids.shape[1]).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
    return [float(row) for row in losses.where(mask[:, :-1] == 1, 0.0).double().sum(dim=-1)]
