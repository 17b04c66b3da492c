"""Memory that ran out in the middle of a merge: told in one line, and given back."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from evomerge.engine.checkpoint import first_line
from evomerge.engine.memory import available
from evomerge.errors import EvomergeError
from evomerge.shortage import is_out_of_memory
from evomerge.sizes import readable

T = TypeVar("T")


def within_memory(do: Callable[[], T], release: Callable[[], None], raised: type[EvomergeError], rule: str) -> T:
    """What `do` returns.

    Args:
        do: may run out of the memory of the host or of a GPU.
        release: called then, to let go of what can be computed again.
        raised: the error that is raised then; its text is the rule, what failed, and how much is free now.
        rule: such as "a candidate must fit into memory".
    """
    try:
        return do()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        told = first_line(error)
    # Only here, where the error is gone, do its frames no longer hold the tensors that filled the memory.
    release()
    gc.collect()
    free = [f"{readable(available())} of memory"]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        free.append(f"{readable(torch.cuda.mem_get_info()[0])} on the GPU")
    raise raised(f"{rule}, but it ran out: {told} ({' and '.join(free)} free now)")
