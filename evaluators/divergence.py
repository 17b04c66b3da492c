"""How far a model has gone from the base: the divergence of its next-token distributions on a file of prompts."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evomerge.errors import CandidateError, EvomergeError, InputError, unknown_name
from evomerge.evaluators.batches import BatchLimit, in_batches
from evomerge.evaluators.config import EvaluateConfig, TaskSpec
from evomerge.evaluators.entries import entries
from evomerge.evaluators.evaluator import evaluator
from evomerge.evaluators.files import read_documents
from evomerge.evaluators.forward import Forward, embeddings
from evomerge.evaluators.padding import left_padded, rows_that_fit
from evomerge.evaluators.planned import Planned
from evomerge.evaluators.quiet import quiet
from evomerge.evaluators.splits import assigned, ranked
from evomerge.evaluators.taskfiles import one_line
from evomerge.evaluators.types import SPLITS, Document, DocumentScore, TaskMetric, described

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRIC = "kl"
TOP = 1024  # likeliest tokens of the base that are kept apart at each position

Place = tuple[str, str]  # a document's task and key


class Distributions(NamedTuple):
    """A prompt's next-token distributions: T positions, K tokens apart, the others as one.

    Attributes:
        ids: the K likeliest tokens, int32 [T, K].
        log_p: their log-probabilities, float32 [T, K].
        log_rest: the logarithm of all other tokens' probability, float32 [T]; -inf where there are none.
    """

    ids: torch.Tensor
    log_p: torch.Tensor
    log_rest: torch.Tensor


@evaluator("kl_from_base")
class Divergence(Planned):
    """Scores live models by KL(base || model), in nats; lower is better, 0 is the base.

    A document is a prompt; its value is the divergence of the distributions of the next token, averaged over all
    positions of the prompt, the last included. The base's distributions are kept as the probabilities of its 1,024
    likeliest tokens and that of all others together: exact for vocabularies up to 1,024, beyond them a lower bound
    (Cover and Thomas, Elements of Information Theory, 2nd edition, section 2.8: merging outcomes cannot increase a
    divergence). That takes 8 KB of memory a token of the prompts.

    Args:
        config: its entries must all be `kl_from_base`.
        tokenizer: of all candidates; it is copied. Prompts get the special tokens that it gives a text.

    Raises:
        InputError: a file that cannot be read, a document without a prompt, another metric than `kl`, a split without
            documents, or two entries of one name with different files.
    """

    def __init__(self, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._batch_size = 32 if config.batch_size == "auto" else config.batch_size
        self._max_length = config.max_length
        self._texts: dict[Place, str] = {}
        self._ids: dict[Place, list[int]] = {}
        self._references: dict[Place, Distributions] = {}
        metrics: dict[str, TaskMetric] = {}
        of_task: dict[str, Sequence[Document]] = {}
        files: dict[str, Any] = {}
        for spec, weight in entries(config):
            _check(spec, files)
            if spec.task in metrics and weight > 0:
                raise InputError(f"a task and metric must be named once, but {spec.task!r} with {METRIC} is twice")
            if spec.task not in metrics:
                metrics[spec.task] = TaskMetric(spec.task, METRIC, higher_is_better=False, weight=weight)
                of_task[spec.task] = self._read(spec, config, copy.deepcopy(tokenizer))
        self._tasks = tuple(metrics.values())
        super().__init__(of_task, config)

    def _read(self, spec: TaskSpec, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> Sequence[Document]:
        assert spec.kl_from_base is not None
        rows = read_documents(spec.kl_from_base, f"kl_from_base of task {spec.task!r}")
        ranks = ranked(rows, config.limit)
        for rank in ranks:
            text = _prompt(rows[rank.index], rank.index, spec)
            ids = list(tokenizer(text)["input_ids"])
            if not ids:
                raise InputError(f"prompts of task {spec.task!r} must have tokens, but {text!r} has none")
            self._texts[spec.task, rank.key], self._ids[spec.task, rank.key] = text, ids
        return assigned(spec.task, ranks, config.splits)

    @property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured, in the order of the configuration."""
        return self._tasks

    @property
    def needs_reference(self) -> bool:
        """Always."""
        return True

    def prompts(self, count: int) -> tuple[str, ...]:
        """The first `count` prompts of each task's documents in `search`."""
        found: list[str] = []
        for task in self._of_task:
            own = [document for document in self.documents("search") if document.task == task]
            found += [self._texts[document.task, document.key] for document in own[:count]]
        return tuple(found)

    def fingerprint(self) -> str:
        """32 hexadecimal digits of SHA-256 over metrics, documents, tokens and batches."""
        content: list[Any] = [[described(metric) for metric in self._tasks], self._chunk_size, self._batch_size, TOP]
        for document in self._order:
            ids = self._ids[document.task, document.key]
            content.append([document.task, document.key, document.index, document.split, ids])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def refer(self, model: PreTrainedModel) -> None:
        """Keep the distributions of the base, whose weights `model` has now, in the memory of the host.

        Raises:
            InputError: a prompt does not fit the model, or the base's logits are not finite.
        """
        self._references = {}
        forward = self._fitted(model)
        try:
            for chunk in (chunk for split in SPLITS for chunk in self.chunks(split)):
                self._references |= self._through(forward, chunk, _kept)
        except CandidateError as error:
            raise InputError(f"kl_from_base must have a base that can be scored, but {error}") from error

    def score(
        self, model: PreTrainedModel, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        """The divergences of `documents`, in their order.

        Args:
            model: a causal language model with the base's vocabulary, on whichever device; left in evaluation mode.
            documents: from this evaluator; those of one task run together.
            weights: nothing is kept of a candidate.
            proxy: there are no stand-ins.

        Raises:
            CandidateError: the logits are not finite, or whatever else went wrong inside of the model.
            InputError: a prompt does not fit the model.
            ValueError: `refer` has not been called, or a document is not from this evaluator.
        """
        wanted = list(documents)
        of_task = self._by_task(wanted)
        if wanted and not self._references:
            raise ValueError("refer must be called with the base before score, but it has not been")
        forward = self._fitted(model)
        found: dict[Place, float] = {}
        for together in of_task.values():
            found |= self._through(forward, together, self._compared)
        return [
            DocumentScore(document.task, document.key, METRIC, found[document.task, document.key])
            for document in wanted
        ]

    def _fitted(self, model: PreTrainedModel) -> Forward:
        """The model as a function, after a check that the prompts fit it."""
        if model.config.is_encoder_decoder:
            raise InputError("kl_from_base must have causal language models, but got an encoder-decoder")
        forward = Forward(model.eval())  # type: ignore[no-untyped-call]
        room = self._max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
        rows = embeddings(model)
        for (task, _), ids in self._ids.items():
            if room is not None and len(ids) > room:
                raise InputError(f"prompts of task {task!r} must have at most {room} tokens, but one has {len(ids)}")
            if max(ids) >= rows:
                raise InputError(
                    f"tokenizer must fit the model's {rows} embeddings, but task {task!r} needs token {max(ids)}"
                )
        return forward

    def _through(self, forward: Forward, documents: Sequence[Document], use: Any) -> dict[Place, Any]:
        """What `use` makes of each document's log-probabilities."""
        places = sorted(
            ((document.task, document.key) for document in documents), key=lambda place: -len(self._ids[place])
        )
        rows = [self._ids[place] for place in places]
        limit = BatchLimit(rows_that_fit(rows, forward.vocabulary, self._batch_size))

        def run(part: Sequence[Place]) -> list[Any]:
            ids, mask = left_padded([self._ids[place] for place in part], forward.device)
            logits = forward(ids, mask, keep=ids.shape[1]).logits
            return [
                use(place, _log_probabilities(logits[row, -len(self._ids[place]) :], place[0]))
                for row, place in enumerate(part)
            ]

        try:
            with quiet(), torch.no_grad():
                return dict(zip(places, in_batches(run, places, limit), strict=True))
        except EvomergeError:
            raise
        except Exception as error:
            raise CandidateError(f"task {places[0][0]!r} cannot be scored: {one_line(error)}") from error

    def _compared(self, place: Place, log_q: torch.Tensor) -> float:
        return divergence(self._references[place], log_q)


def distributions(log_p: torch.Tensor, top: int = TOP) -> Distributions:
    """What is kept of log-probabilities, float32 [T, V], which are overwritten."""
    found = log_p.topk(min(top, log_p.shape[-1]), dim=-1)
    return Distributions(found.indices.int(), found.values, _rest(log_p, found.indices))


def divergence(base: Distributions, log_q: torch.Tensor) -> float:
    """KL(base || q) in nats, averaged over T positions.

    Args:
        base: T positions.
        log_q: the other model's log-probabilities, float32 [T, V]; overwritten.
    """
    ids = base.ids.to(log_q.device, torch.int64)
    log_p = torch.cat([base.log_p, base.log_rest[:, None]], dim=-1).to(log_q.device)
    apart = log_q.gather(-1, ids)
    log_ratio = log_p - torch.cat([apart, _rest(log_q, ids)[:, None]], dim=-1)
    # Where the base gives no probability the term is 0 (Cover and Thomas, section 2.3), also where q gives none.
    terms = torch.where(log_p > -math.inf, log_p.exp() * log_ratio, 0.0)
    return math.fsum(terms.sum(dim=-1).tolist()) / len(terms)


def _rest(log_p: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The logarithm of the probability of all tokens but `ids`, [T]; `log_p` is overwritten."""
    return log_p.scatter_(-1, ids, -math.inf).logsumexp(dim=-1)


def _kept(_place: Place, log_p: torch.Tensor) -> Distributions:
    return Distributions(*(tensor.cpu() for tensor in distributions(log_p)))


def _log_probabilities(logits: torch.Tensor, task: str) -> torch.Tensor:
    log_p = logits.float().log_softmax(dim=-1)
    if bool(log_p.isnan().any()):
        raise CandidateError(f"logits are NaN on task {task!r}: the candidate's weights cannot be used")
    return log_p


def _prompt(row: Any, number: int, spec: TaskSpec) -> str:
    text = row.get("prompt") if isinstance(row, dict) else row
    if not isinstance(text, str) or not text:
        raise InputError(
            f"documents of task {spec.task!r} must be texts or have a `prompt`, but number {number} of "
            f"{str(spec.kl_from_base)!r} is {str(row)[:60]!r}"
        )
    return text


def _check(spec: TaskSpec, files: dict[str, Any]) -> None:
    """Raise InputError for an entry of another kind, another metric, or a second file under one name."""
    if spec.kl_from_base is None:
        raise InputError(f"entries of evaluator 'kl_from_base' must name a file, but {spec.task!r} has none")
    if spec.metric not in {None, METRIC}:
        raise unknown_name(f"metric of task {spec.task!r}", str(spec.metric), [METRIC])
    if files.setdefault(spec.task, spec.kl_from_base) != spec.kl_from_base:
        raise InputError(
            f"a task's name must stand for one task, but {spec.task!r} stands for {str(files[spec.task])!r} and "
            f"{str(spec.kl_from_base)!r}; give one of them another `task`"
        )
