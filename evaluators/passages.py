"""A text file as an lm-eval task: its passages are documents, scored by their perplexity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask, Task

from evomerge.errors import InputError
from evomerge.evaluators.files import read_text

LONGEST = 1000  # characters: the text of some 200 tokens, so that a page of text already makes several documents

_ENDS = (re.compile(r"\n[^\S\n]*\n\s*"), re.compile(r"\n\s*"), re.compile(r"\s+"))  # blank lines, lines, words


def passage_task(name: str, path: Path) -> Task:
    """A task of output type `loglikelihood_rolling` on the passages of a text file.

    Its metrics are lm-eval's `word_perplexity`, `byte_perplexity` and `bits_per_byte`.

    Raises:
        InputError: the file is not there, is not UTF-8, or has no text.
    """
    text = read_text(path, f"perplexity of task {name!r}")
    if not text.strip():
        raise InputError(f"perplexity of task {name!r} must be a file with text, but {str(path)!r} is empty")
    rows = [{"text": passage} for passage in passages(text)]

    def dataset(**_settings: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})

    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": dataset,
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [{"metric": metric} for metric in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        }
    )


def passages(text: str, longest: int = LONGEST) -> list[str]:
    """The text in passages of at most `longest` characters, which put together are the text.

    A passage ends behind the last blank line in the second half of the characters it could have, else behind the last
    line end there, else behind the last space, else where they end.
    """
    found = []
    start = 0
    while len(text) - start > longest:
        end = _end(text, start + longest // 2, start + longest)
        found.append(text[start:end])
        start = end
    found.append(text[start:])
    return found


def _end(text: str, low: int, high: int) -> int:
    """Where a passage that has to end behind `low` and at `high` at the latest ends."""
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high
