"""A watch on a model's logits while lm-eval drives it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from evomerge.errors import CandidateError


class LogitsWatch:
    """Notes whether logits were NaN: on the device, without waiting for it, and in the numbers made of them."""

    def __init__(self) -> None:
        self._seen: torch.Tensor | None = None
        self._in_response = False

    def note(self, _module: torch.nn.Module, _args: Any, output: Any) -> None:
        """The forward hook: looks at the last position of each row (logits: rows x positions x vocabulary)."""
        nan = output.logits[:, -1].isnan().any()
        self._seen = nan if self._seen is None else self._seen | nan

    def note_responses(self, responses: Iterable[object]) -> None:
        """Look at responses: texts, log-likelihoods, or pairs that begin with one."""
        for response in responses:
            number = response[0] if isinstance(response, tuple) else response
            self._in_response |= isinstance(number, float) and math.isnan(number)

    def check(self, task: str) -> None:
        """Raise CandidateError if any logits since the start of the watch were NaN."""
        if self._in_response or (self._seen is not None and bool(self._seen)):
            raise CandidateError(f"logits are NaN on task {task!r}: the candidate's weights cannot be used")


@contextlib.contextmanager
def watch_logits(model: torch.nn.Module) -> Iterator[LogitsWatch]:
    """Watch `model` for the length of the block."""
    watch = LogitsWatch()
    handle = model.register_forward_hook(watch.note)
    try:
        yield watch
    finally:
        handle.remove()
