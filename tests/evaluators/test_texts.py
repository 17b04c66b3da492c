"""What documents of lm-eval's tasks say, for people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evomerge.evaluators.texts import text_of


def task(target: Any, choices: list[str] | None = None) -> Any:
    def doc_to_target(doc: Any) -> Any:
        if isinstance(target, Exception):
            raise target
        return target

    return SimpleNamespace(
        doc_to_target=doc_to_target,
        doc_to_choice=lambda doc: choices,
        config=SimpleNamespace(doc_to_choice=choices),
    )


def requests(*arguments: Any) -> Any:
    return [SimpleNamespace(args=arguments, doc={})]


@pytest.mark.parametrize(
    ("target", "choices", "expected"),
    [
        (" 4", None, " 4"),
        (1, ["red", "blue"], "blue"),
        ([0, 1], ["red", "blue"], "red or blue"),
        (["4", "four"], None, "4 or four"),
        (7, ["red"], "7"),
        (3, None, "3"),
        (None, None, ""),
        (KeyError("answer"), None, ""),
    ],
)
def test_the_reference_is_told_in_words(target: Any, choices: list[str] | None, expected: str) -> None:
    text = text_of(task(target, choices), requests("2 + 2 =", " 4"))
    assert text == ("2 + 2 =", expected)


def test_a_text_of_no_arguments_is_empty() -> None:
    assert text_of(task("a"), requests()).prompt == ""
