"""Silence around lm-eval: its bars, its chatter and its hold on the global random state end with the block."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from collections.abc import Iterator
from typing import Any

import datasets
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
import numpy as np
import torch
from transformers.utils import logging as transformers_logging

tqdm: Any = lm_eval.api.task.tqdm

_WITH_BARS = (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface)


class _NoBar(tqdm):  # type: ignore[misc]
    """A progress bar that shows nothing, whatever its caller asks for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no warnings of lm-eval or transformers, and what tasks print goes to standard error."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        for module in _WITH_BARS:
            stack.callback(setattr, module, "tqdm", module.tqdm)
            module.tqdm = _NoBar
        log = logging.getLogger("lm_eval")
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.ERROR)
        stack.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        transformers_logging.set_verbosity(logging.ERROR)
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators start at `seed` and are put back afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    held_python, held_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        reseed(seed)
        try:
            yield
        finally:
            random.setstate(held_python)
            np.random.set_state(held_numpy)


def reseed(seed: int) -> None:
    """Set the three global generators to `seed` (any integer; NumPy takes it modulo 2^32)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
