"""What a document says, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task


class DocumentText(NamedTuple):
    """A document as a model reads it, and what it should answer.

    Attributes:
        prompt: all that stands before the answer, worked examples and a chat template's marks included.
        expected: the reference answer; "" where there is none.
    """

    prompt: str
    expected: str


def text_of(task: Task, requests: Sequence[Instance]) -> DocumentText:
    """The text of one of lm-eval's documents.

    Args:
        task: that the document is of.
        requests: of the document, in lm-eval's order, at least one.
    """
    first = requests[0]
    prompt = str(first.args[0]) if first.args else ""
    try:
        target = task.doc_to_target(first.doc)
        choices = task.doc_to_choice(first.doc) if _is_choice(task, target) else None
    except Exception:  # whatever a task's own code does with a document that has no target
        return DocumentText(prompt, "")
    return DocumentText(prompt, _in_words(target, choices))


def _is_choice(task: Task, target: Any) -> bool:
    return isinstance(target, int | list) and getattr(task.config, "doc_to_choice", None) is not None


def _in_words(target: Any, choices: Sequence[Any] | None) -> str:
    if isinstance(target, list | tuple):
        return " or ".join(_in_words(each, choices) for each in target)
    if isinstance(target, int) and choices is not None and 0 <= target < len(choices):
        return str(choices[target])
    return "" if target is None else str(target)
