"""Requests as token ids, exactly as lm-eval's HFLM encodes them for causal models.

Its tokenizer rules (begin tokens, spaces at the boundary) are asked of it; windows and cuts are made here.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evomerge.errors import InputError

if TYPE_CHECKING:
    from evomerge.evaluators.wrapper import LiveModel


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row of tokens of which the last ones are scored.

    Attributes:
        ids: the row, at least two tokens; the last is scored and never read. An end that any token of a set may
            bring is written as -1 minus the set's number, and stands last.
        start: place of the first token that is scored, at least 1.
        cut: whether the row lost its beginning to the model's context length.
    """

    ids: array[int]
    start: int
    cut: bool = False

    @property
    def read(self) -> array[int]:
        """The tokens that the model reads: all but the last."""
        return self.ids[:-1]


def encode(live: LiveModel, task: str, request: Instance) -> tuple[Encoded, ...]:
    """The rows of a request, whose log-likelihoods add up to the request's.

    Args:
        live: knows the tokenizer, and how many tokens the model reads at most.
        task: the task's name, for errors.
        request: "loglikelihood" gives one row, "loglikelihood_rolling" one for each window.

    Raises:
        InputError: an answer without a token of its own or longer than the model's context, or a text that begins
            with nothing where the tokenizer has no token to begin with.
    """
    if request.request_type == "loglikelihood_rolling":
        return _windows(live, task, *request.args)
    return (encode_pair(live, task, *request.args),)


def encode_pair(live: LiveModel, task: str, context: str, answer: str, end: tuple[int, ...] = ()) -> Encoded:
    """An answer after its context and, if given, its end; cut from the left to what the model reads.

    Raises as `encode` does.
    """
    if not answer:
        raise InputError(f"answers of task {task!r} must not be empty, but one is, to {context[-40:]!r}")
    if context:
        before, scored = live._encode_pair(context, answer)
    else:
        before, scored = [_begin_token(live, task)], live.tok_encode(answer, add_special_tokens=False)
        if scored[:1] == before:
            scored = scored[1:]
    if not before or not scored:
        raise InputError(
            f"answers of task {task!r} must have tokens of their own after a context with tokens, "
            f"but {answer!r} after {context[-40:]!r} has {len(scored)} after {len(before)}"
        )
    return _fitted(live, task, [*before, *scored, *end], len(before))


def _fitted(live: LiveModel, task: str, ids: list[int], start: int) -> Encoded:
    """A row cut to what the model reads, and the token after that."""
    over = max(0, len(ids) - (live.max_length + 1))
    if start - over < 1:
        raise InputError(
            f"answers of task {task!r} must be at most {live.max_length} tokens long, as the model's context is, "
            f"but one has {len(ids) - start}"
        )
    return Encoded(array("i", ids[over:]), start - over, over > 0)


def _windows(live: LiveModel, task: str, text: str) -> tuple[Encoded, ...]:
    """lm-eval's windows: each reads as much as fits and scores what the ones before have not."""
    windows = get_rolling_token_windows(
        token_list=live.tok_encode(text),
        prefix_token=_begin_token(live, task),
        max_seq_len=live.max_length,
        context_len=1,
    )
    pairs = map(make_disjoint_window, windows)
    return tuple(Encoded(array("i", [*before, *scored]), len(before)) for before, scored in pairs)


def _begin_token(live: LiveModel, task: str) -> int:
    token: int | None = live.prefix_token_id
    if token is None:
        raise InputError(
            f"a tokenizer must have a begin or an end token for task {task!r}, which scores texts from their "
            "first token on, but it has neither"
        )
    return token
