"""lm-eval's wrapper around a live model, with a memory for tokenized prompts that outlives the candidate."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from evomerge.errors import InputError
from evomerge.evaluators.forward import embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Memory = dict[tuple[str, bool | None], "array[int]"]


class LiveModel(HFLM):  # type: ignore[misc]
    """lm-eval's view of a live model: what it computes is HFLM's, prompts are tokenized once for all candidates.

    Args:
        model: scored with the weights that it has at each call.
        tokenizer: of all candidates.
        batch_size: requests in one forward pass.
        max_length: the longest prompt in tokens; None: what the model's configuration says.
        memory: token ids of strings that were seen before; belongs to `tokenizer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        max_length: int | None,
        memory: Memory,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
        self._memory = memory

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of `string`, as HFLM gives them."""
        if kwargs:
            return list(super().tok_encode(string, add_special_tokens, **kwargs))
        key = (string, add_special_tokens)
        if key not in self._memory:
            self._memory[key] = array("q", super().tok_encode(string, add_special_tokens))
        return self._memory[key].tolist()

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """Token ids of strings that are first seen within the block are forgotten behind it."""
        held, self._memory = self._memory, {}
        try:
            yield
        finally:
            self._memory = held

    def count_cut(self, task: str, requests: Iterable[Instance]) -> int:
        """How many requests are too long for the model and lose their beginning, as lm-eval has it.

        Raises:
            InputError: an answer that is empty or alone exceeds the model, room for no prompt at all, or token ids
                that the model's embedding does not have.
        """
        cut = 0
        for request in requests:
            ids, room = self._fit(task, request)
            cut += len(ids) > room
            self.require_known(task, [ids])
        return cut

    def require_known(self, task: str, rows: Iterable[Sequence[int]]) -> None:
        """Raise InputError for token ids that the model's embedding does not have."""
        known = embeddings(self.model)
        highest = max((max(ids) for ids in rows if len(ids)), default=0)
        if highest >= known:
            raise InputError(
                f"tokenizer must fit the model's {known} embeddings, but task {task!r} needs token {highest}"
            )

    def _fit(self, task: str, request: Instance) -> tuple[list[int], int]:
        """The tokens of a request and how many of them the model takes."""
        if request.request_type == "loglikelihood":
            context, answer = request.args
            if not answer:
                raise InputError(f"answers of task {task!r} must not be empty, but one is, to {context[-40:]!r}")
            return self.tok_encode(context + answer), self.max_length + 1
        if request.request_type == "generate_until":
            context, settings = request.args
            longest = normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"]
            if longest >= self.max_length:
                raise InputError(
                    f"max_gen_toks of task {task!r} must be below the model's {self.max_length} tokens, "
                    f"but is {longest}"
                )
            return self.tok_encode(context), self.max_length - longest
        return [], 0
