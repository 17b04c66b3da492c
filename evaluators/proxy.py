"""A stand-in for generation: how likely a model finds the reference answer, in one forward pass.

The value of a document is the geometric mean of the probabilities of the reference's tokens and of its end, in [0, 1].
Its end is any token that ends an answer of the task, so that a model that was trained to stop with another one than
the reference's is not the worse for it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from evomerge.errors import InputError
from evomerge.evaluators.coverage import end_tokens
from evomerge.evaluators.encode import encode_pair
from evomerge.evaluators.forward import embeddings
from evomerge.evaluators.likelihoods import TaskRows, common_root
from evomerge.evaluators.loglikelihood import Answer
from evomerge.evaluators.types import TaskMetric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evomerge.evaluators.requests import PreparedTask
    from evomerge.evaluators.wrapper import LiveModel

REFERENCE_LOGLIKELIHOOD = "reference_loglikelihood"
# Without the end of an answer "19" would be as good as "1927". On a trained example (merges of two experts, two tasks,
# 600 answers each) the area under the curve of right against wrong answers is .995 and .927 with the end, .993 and .900
# without; over 15 merges either ranks as the metric does (Spearman .95 to .96 a task).
WITH_END = True

_texts: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, list[str]] = weakref.WeakKeyDictionary()


def stand_in(task: str, metrics: Iterable[TaskMetric]) -> TaskMetric:
    """What a task is scored by in place of its metrics, with the weight of them all."""
    weight = sum(metric.weight for metric in metrics if metric.task == task)
    return TaskMetric(task, REFERENCE_LOGLIKELIHOOD, weight=weight)


def references(prepared: PreparedTask) -> dict[str, tuple[str, ...]] | None:
    """For each document's key its reference answers; None: the task does not generate.

    Raises:
        InputError: a document without a reference answer that is text.
    """
    found = {}
    for key, requests in prepared.requests.items():
        if any(request.request_type != "generate_until" for request in requests):
            return None
        found[key] = _targets(prepared.name, prepared.task, requests[0].doc)
    return found


def sample_text(task: Task, request: Instance) -> str:
    """A request's text: its prompt with the answer that is scored, or else with a reference answer if there is one."""
    if request.request_type != "generate_until":
        return "".join(request.args)
    try:
        (target, *_) = _targets("", task, request.doc)
    except InputError:
        return str(request.args[0])
    return f"{request.args[0]}{task.config.target_delimiter}{target}"


def _targets(name: str, task: Task, document: Any) -> tuple[str, ...]:
    try:
        target = task.doc_to_target(document)
    except Exception:  # whatever a task's own code does with a document that has no target
        target = None
    if isinstance(target, int) and getattr(task.config, "doc_to_choice", None) is not None:
        target = task.doc_to_choice(document)[target]
    texts = (target,) if isinstance(target, str) else tuple(target) if isinstance(target, list | tuple) else ()
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(
            f"proxy must be null for task {name!r}, whose documents need a reference answer in text "
            f"(doc_to_target), but one has {str(target)[:40]!r}"
        )
    return texts


def proxy_rows(
    live: LiveModel, prepared: PreparedTask, targets: dict[str, tuple[str, ...]], delimiter: str
) -> TaskRows:
    """The rows of a task's stand-in: a request for each reference, its end behind it.

    Args:
        live: knows tokenizer and model.
        prepared: the task.
        targets: for each document's key its reference answers.
        delimiter: stands between prompt and answer.

    Raises:
        InputError: a reference without tokens, or longer than the model's context.
    """
    sets: dict[tuple[str, ...], int] = {}
    of_document = {}
    for key, texts in targets.items():
        request = prepared.requests[key][0]
        end = (-1 - sets.setdefault(_until(request), len(sets)),) if WITH_END else ()
        of_document[key] = [
            (encode_pair(live, prepared.name, request.args[0], delimiter + text, end),) for text in texts
        ]
    ends = [_ends(live.tokenizer, live.model, until) for until in sets]
    if not all(len(tokens) for tokens in ends):
        raise InputError(f"task {prepared.name!r} must have a stop string, or the model an end token, for its proxy")
    rows = [row for requests in of_document.values() for (row,) in requests]
    return TaskRows(of_document, common_root(rows), tuple(ends), live.max_length, greedy=False)


def proxy_values(task: TaskRows, keys: Sequence[str], answers: Sequence[Answer]) -> list[float]:
    """Each document's value: of its likeliest reference."""
    remaining = iter(answers)
    values = []
    for key in keys:
        means = [
            next(remaining).loglikelihood / sum(len(row.ids) - row.start for row in rows)
            for rows in task.of_document[key]
        ]
        values.append(math.exp(max(means)))
    return values


def _until(request: Instance) -> tuple[str, ...]:
    until = request.args[1].get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until)


def _ends(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, until: Sequence[str]) -> torch.Tensor:
    """All tokens that end an answer: end tokens, and those that begin a stop string.

    A stop string that no token begins with as a whole takes several; then its first token counts.
    """
    vocabulary = embeddings(model)
    own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    ends = {token for token in (*own, *end_tokens(model)) if token < vocabulary}
    if tokenizer not in _texts:
        _texts[tokenizer] = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    texts = _texts[tokenizer][:vocabulary]
    for stop in filter(None, until):
        whole = [token for token, text in enumerate(texts) if text.startswith(stop)]
        ends.update(whole or [token for token, text in enumerate(texts) if text and stop.startswith(text)])
    return torch.tensor(sorted(ends), dtype=torch.long)
