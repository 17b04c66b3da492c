"""Where a task's worked examples come from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple


class Examples(NamedTuple):
    """A task's worked examples.

    Attributes:
        number: in each prompt.
        where: what they are drawn from, in words.
        from_scored: whether that is the data that the task is scored on.
    """

    number: int
    where: str
    from_scored: bool


def examples_of(task: Any) -> Examples:
    """Where the worked examples of a task, as lm-eval loaded it, come from."""
    count = int(task.get_config("num_fewshot") or 0)
    settings = task.get_config("fewshot_config")
    own = getattr(settings, "split", None)
    if own is None and getattr(settings, "samples", None) is not None:
        return Examples(count, "a list in its file", from_scored=False)
    source = own or task.get_config("training_split") or task.get_config("validation_split")
    scored = scored_split(task)
    return Examples(count, f"the split {source or scored!r}", from_scored=source in (None, scored))


def scored_split(task: Any) -> str:
    """The split of the data that the task is scored on."""
    return str(task.get_config("test_split") or task.get_config("validation_split"))


def examples(task: Any, most: int) -> Sequence[Any]:
    """The first `most` documents that worked examples are drawn from; none where there are no examples."""
    if not task.get_config("num_fewshot"):
        return ()
    found = task.fewshot_docs()
    return list(islice(found, most)) if found is not None else ()
