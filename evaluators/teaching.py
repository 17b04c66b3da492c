"""Losses of reference answers that can be run backward: how unlikely a model finds what it should say.

Every document is a set of requests of which some are right. With s_r the log-likelihood of request r, its loss is

- for generation with references R: -log sum_R exp s_r, in nats by mean length of the task's answers, with any end that
  ends an answer behind each reference;
- for multiple choice: the cross entropy -log (sum of exp s_r over what is right / over all), with s_r by length where
  the metric is acc_norm;
- for a single answer or a text: -s_r, by mean length of the task's answers, or by the text's own.

Rows are padded on the right and run plainly, without caches: what the evaluators share between rows would have to be
kept for the backward pass.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators.calibration import _places
from evomerge.evaluators.combined import Combined
from evomerge.evaluators.encode import Encoded
from evomerge.evaluators.evaluator import Evaluator
from evomerge.evaluators.harness import LmEval
from evomerge.evaluators.likelihoods import TaskRows
from evomerge.evaluators.loglikelihood import Rows, log_probabilities
from evomerge.evaluators.proxy import proxy_rows, references
from evomerge.evaluators.quiet import quiet, seeded
from evomerge.evaluators.tensors import Targets
from evomerge.evaluators.types import Document
from evomerge.shortage import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evomerge.evaluators.requests import PreparedTask
    from evomerge.evaluators.responding import Attached

TOKENS = {"cpu": 1024}  # that are read at a time, whose activations are held for the backward pass ...
TOKENS_ELSEWHERE = 8192  # ... and on any other kind of device


class Example(NamedTuple):
    """A document as what a model should find likely.

    Attributes:
        requests: each as its rows, whose log-likelihoods add up.
        scales: of each request; what its log-likelihood is divided by.
        right: places of the right requests.
        among: whether the right ones are compared with all; otherwise their likelihood itself counts.
        unit: what the loss is divided by.
    """

    requests: tuple[Rows, ...]
    scales: tuple[float, ...]
    right: tuple[int, ...]
    among: bool
    unit: float

    def loss(self, likelihoods: torch.Tensor) -> torch.Tensor:
        """The loss, a number, from the requests' log-likelihoods [r]."""
        scores = likelihoods / torch.tensor(self.scales, device=likelihoods.device)
        right = scores[list(self.right)].logsumexp(0)
        return -(right - scores.logsumexp(0) if self.among else right) / self.unit


@dataclass(frozen=True)
class Lesson:
    """What a task teaches.

    Attributes:
        examples: by document key.
        ends: sets of tokens that end an answer, which rows refer to by negative numbers.
    """

    examples: Mapping[str, Example]
    ends: tuple[torch.Tensor, ...]


class Teacher:
    """The losses of an evaluator's documents, as functions of the weights that a model has at each call.

    Args:
        evaluator: its lm-eval tasks are used, as they are scored.
        model: whose vocabulary and context length hold for all models to come.

    Attributes:
        lessons: by task.
        without: for each task that has no such loss, the reason in a few words.
    """

    def __init__(self, evaluator: Evaluator, model: PreTrainedModel) -> None:
        self.lessons: dict[str, Lesson] = {}
        self.without: dict[str, str] = {task.task: "it is scored by a function" for task in evaluator.tasks}
        parts = evaluator.parts if isinstance(evaluator, Combined) else (evaluator,)
        for part in parts:
            if isinstance(part, LmEval):
                self._learn(part, model)
        self._tokens = 0

    def losses(self, model: PreTrainedModel, documents: Sequence[Document]) -> list[float]:
        """The documents' losses, in their order.

        Raises:
            CandidateError: one document alone does not fit into memory.
        """
        while True:
            try:
                return self._run(model, documents, lambda found: None, grad=False)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.shrink()

    def teach(self, model: PreTrainedModel, documents: Sequence[Document], shares: Sequence[float]) -> list[float]:
        """The documents' losses, in their order; their sum by `shares` is run backward, batch by batch.

        Whether and where gradients are collected is up to the model's parameters.

        Raises:
            torch.OutOfMemoryError, MemoryError, RuntimeError: a batch does not fit into memory; see `shrink`.
        """
        share_of = dict(zip(documents, shares, strict=True))

        def backward(found: Sequence[tuple[Document, torch.Tensor]]) -> None:
            total = torch.stack([share_of[document] * loss for document, loss in found]).sum()
            total.backward()  # type: ignore[no-untyped-call]

        return self._run(model, documents, backward, grad=True)

    def shrink(self) -> None:
        """Read half as many tokens at a time from here on. Raises CandidateError when that is too few for a batch."""
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        if self._tokens <= 1:
            raise CandidateError("out of memory with a gradient of one document; take a device with more memory")
        self._tokens //= 2

    def _learn(self, part: LmEval, model: PreTrainedModel) -> None:
        metrics = {task.task: {each.metric for each in part.tasks if each.task == task.task} for task in part.tasks}
        with quiet(), seeded(0), torch.no_grad():
            attached = part.responder.attach(model, None)
            try:
                for name, prepared in part.prepared.items():
                    try:
                        self.lessons[name] = _lesson(part, attached, prepared, metrics.get(name, set()))
                        del self.without[name]
                    except InputError as error:
                        self.without[name] = str(error)
            finally:
                part.responder.detach()

    def _run(
        self,
        model: PreTrainedModel,
        documents: Sequence[Document],
        use: Callable[[Sequence[tuple[Document, torch.Tensor]]], None],
        *,
        grad: bool,
    ) -> list[float]:
        found: dict[Document, float] = {}
        with quiet(), torch.set_grad_enabled(grad):
            for batch in self._batches(model, documents):
                losses = self._losses(model, batch)
                use(losses)
                found.update((document, float(loss.detach())) for document, loss in losses)
        return [found[document] for document in documents]

    def _batches(self, model: PreTrainedModel, documents: Sequence[Document]) -> Iterator[list[Document]]:
        """Documents of like length, so that padded rows stay within the tokens that are read at a time."""
        self._tokens = self._tokens or TOKENS.get(model.device.type, TOKENS_ELSEWHERE)
        batch: list[Document] = []
        rows = 0
        for document in sorted(documents, key=lambda document: (-self._width(document), document.key)):
            own = len(self._rows(document))
            if batch and (rows + own) * self._width(batch[0]) > self._tokens:
                yield batch
                batch, rows = [], 0
            batch.append(document)
            rows += own
        if batch:
            yield batch

    def _example(self, document: Document) -> Example:
        return self.lessons[document.task].examples[document.key]

    def _rows(self, document: Document) -> list[Encoded]:
        return [row for request in self._example(document).requests for row in request]

    def _width(self, document: Document) -> int:
        return max(len(row.ids) - 1 for row in self._rows(document))

    def _losses(self, model: PreTrainedModel, batch: Sequence[Document]) -> list[tuple[Document, torch.Tensor]]:
        names = list(dict.fromkeys(document.task for document in batch))
        counts = [len(self.lessons[name].ends) for name in names]
        first = dict(zip(names, accumulate(counts, initial=0), strict=False))  # of each task's sets among all
        ends = [tokens for name in names for tokens in self.lessons[name].ends]
        rows = [(row, first[document.task]) for document in batch for row in self._rows(document)]
        requests = [request for document in batch for request in self._example(document).requests]
        owners = [place for place, request in enumerate(requests) for _ in request]
        values = row_likelihoods(model, [row for row, _ in rows], ends, [shift for _, shift in rows])
        sums = values.new_zeros(len(requests)).index_add(0, torch.tensor(owners, device=values.device), values)
        split = sums.split([len(self._example(document).requests) for document in batch])  # type: ignore[no-untyped-call]
        return [(document, self._example(document).loss(own)) for document, own in zip(batch, split, strict=True)]


def row_likelihoods(
    model: PreTrainedModel, rows: Sequence[Encoded], ends: Sequence[torch.Tensor], shifts: Sequence[int]
) -> torch.Tensor:
    """The log-likelihoods of rows' scored tokens, float32 [rows], in one pass.

    Args:
        model: a causal language model.
        rows: R of them.
        ends: sets of token ids, on whichever device.
        shifts: for each row the place in `ends` of its task's first set.
    """
    width = max(len(row.ids) - 1 for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    places: list[int] = []
    columns: list[int] = []
    tokens: list[int] = []
    for place, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
        ids[place, : len(row.ids) - 1] = torch.tensor(row.read, dtype=torch.long)
        places += [place] * (len(row.ids) - row.start)
        columns += range(row.start - 1, len(row.ids) - 1)
        tokens += [token if token >= 0 else token - shift for token in row.ids[row.start :]]
    kept, column = torch.unique(torch.tensor(columns), return_inverse=True)
    logits = _logits(model, ids.to(model.device), kept)
    targets = Targets(*(each.to(logits.device) for each in (torch.tensor(places), column, torch.tensor(tokens))))
    found = log_probabilities(logits, targets, [each.to(logits.device) for each in ends], greedy=False)
    return found.new_zeros(len(rows)).index_add(0, targets.rows, found[:, 0])


def _logits(model: PreTrainedModel, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The logits [B, K, V] of K columns. Padding on the right is seen by no token, so that no mask is needed."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        several = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
        kept = columns if several else columns.to(ids.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
        return logits
    whole: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return whole[:, columns.to(whole.device)]


def _lesson(part: LmEval, attached: Attached, prepared: PreparedTask, metrics: set[str]) -> Lesson:
    """What a task teaches. Raises InputError, with the reason, where it teaches nothing."""
    if attached.live.backend != "causal":
        raise InputError("the model is an encoder-decoder")
    kinds = {request.request_type for requests in prepared.requests.values() for request in requests}
    if kinds == {"generate_until"}:
        return _of_references(part, attached, prepared)
    rows = part.responder.task_rows(attached, prepared)
    if kinds == {"loglikelihood_rolling"}:
        examples = {key: _text(own) for key, own in rows.of_document.items()}
    elif kinds == {"loglikelihood"} and prepared.task.OUTPUT_TYPE == "multiple_choice":
        by_length = "acc_norm" in metrics and "acc" not in metrics
        examples = {key: _choice(prepared, key, own, by_length) for key, own in rows.of_document.items()}
    elif kinds == {"loglikelihood"} and all(len(own) == 1 for own in rows.of_document.values()):
        return Lesson(_by_length(rows), rows.ends)
    else:
        raise InputError("it does not say which of its requests are right")
    return Lesson(examples, rows.ends)


def _of_references(part: LmEval, attached: Attached, prepared: PreparedTask) -> Lesson:
    targets = references(prepared)
    assert targets is not None
    delimiter = "" if part.config.apply_chat_template else prepared.task.config.target_delimiter
    with attached.live.forgetting():
        rows = proxy_rows(attached.live, prepared, targets, delimiter)
    return Lesson(_by_length(rows), rows.ends)


def _by_length(rows: TaskRows) -> dict[str, Example]:
    """Any of a document's requests is right; losses are in nats by mean length of the task's answers."""
    lengths = [_scored(request) for requests in rows.of_document.values() for request in requests]
    unit = sum(lengths) / len(lengths)
    return {
        key: Example(tuple(requests), (1.0,) * len(requests), tuple(range(len(requests))), False, unit)
        for key, requests in rows.of_document.items()
    }


def _text(requests: Sequence[Rows]) -> Example:
    return Example(tuple(requests), (1.0,) * len(requests), (0,), False, max(1, _scored(requests[0])))


def _choice(prepared: PreparedTask, key: str, requests: Sequence[Rows], by_length: bool) -> Example:
    """The choices alone: requests behind them, which lm-eval adds for acc_mutual_info, do not count."""
    task, doc = prepared.task, prepared.requests[key][0].doc
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    right = sorted(place for place in _places(gold, choices) if 0 <= place < len(choices))
    if not right:
        raise InputError("one of its documents has no right choice")
    lengths = [float(len(choice)) if by_length else 1.0 for choice in choices]
    mean = sum(lengths) / len(lengths)
    return Example(tuple(requests[: len(choices)]), tuple(each / mean for each in lengths), tuple(right), True, 1.0)


def _scored(rows: Rows) -> int:
    return sum(len(row.ids) - row.start for row in rows)
