"""Scores from lm-eval's tasks: prompts, filters and metrics are lm-eval's, prepared once for all candidates.

Parity: on every document the score is what `lm_eval.evaluate` gives for the same model, tasks and settings.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import torch
from lm_eval.api.instance import Instance

from evomerge.errors import CandidateError
from evomerge.evaluators.config import EvaluateConfig
from evomerge.evaluators.evaluator import evaluator
from evomerge.evaluators.loading import load_tasks, task_metrics, unique
from evomerge.evaluators.quiet import quiet, reseed, seeded
from evomerge.evaluators.requests import chat_template_of, prepare
from evomerge.evaluators.splits import rungs
from evomerge.evaluators.taskfiles import one_line
from evomerge.evaluators.types import SPLITS, Document, DocumentScore, Split, TaskMetric, described
from evomerge.evaluators.watch import LogitsWatch, watch_logits
from evomerge.evaluators.wrapper import LiveModel, Memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 64  # documents scored at a time: two batches of "auto" on CPU, one elsewhere
FIRST_CHUNK = 8  # of a race, in the largest task

log = logging.getLogger(__name__)


@evaluator("lm_eval")
class LmEval:
    """Scores live models on lm-eval tasks.

    Documents are scored in chunks of a fixed plan: all of a chunk's requests go through the model together and apart
    from those of other chunks, so a candidate's score does not depend on which other chunks are scored, not even in
    bfloat16, where the makeup of a batch moves the logits.

    Args:
        config: the tasks and how they are scored.
        tokenizer: of all candidates; it is copied.

    Raises:
        InputError: an unknown task, metric or filter, a task that does not load, a split without documents, or
            settings that do not go together.
    """

    def __init__(self, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config = config
        self._tokenizer = copy.deepcopy(tokenizer)
        with quiet(), seeded(config.fewshot_seed):
            specs = load_tasks(config)
            self._tasks = task_metrics(specs)
            chat_template = chat_template_of(self._tokenizer, config)
            self._prepared = {name: prepare(name, task, config, chat_template) for name, task in unique(specs).items()}
        of_all = [document for prepared in self._prepared.values() for document in prepared.documents]
        self._plan = {split: self.planned([d for d in of_all if d.split == split]) for split in SPLITS}
        self._order = {document: place for place, document in enumerate(of_all)}
        self._memory: Memory = {}
        self._fitted: set[tuple[int, int]] = set()

    @property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured, in the order of the configuration; a group's tasks stand in its place."""
        return self._tasks

    @property
    def proxies(self) -> Mapping[str, TaskMetric]:
        """The log-likelihoods of reference answers, where the configuration wants them."""
        return {}

    @property
    def needs_reference(self) -> bool:
        """Never."""
        return False

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The documents of a split, in the order of `chunks`."""
        return tuple(document for chunk in self.chunks(split) for document in chunk)

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        """The split in runs of one task's documents; the plan depends on configuration and data alone."""
        return tuple(chunk for rung in self._plan[split] for chunk in rung)

    def rungs(self, split: Split) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        """The chunks in groups of one for each task."""
        return self._plan[split]

    def planned(self, documents: Sequence[Document]) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        """Rungs for some of the documents; small at first where candidates race."""
        of_task = {name: [d for d in documents if d.task == name] for name in self._prepared}
        return rungs(of_task, self._chunk_size, FIRST_CHUNK if self._config.race else None)

    def prompts(self, count: int) -> tuple[str, ...]:
        """The first `count` documents' prompts of each task."""
        return ()

    def refer(self, model: PreTrainedModel) -> None:
        """Nothing is needed of the base."""

    def fingerprint(self) -> str:
        """32 hexadecimal digits of SHA-256 over all that scores depend on beside the model.

        These are the documents and their splits, the requests as the model gets them, what is measured, and how
        requests are run together.
        """
        digest = hashlib.sha256()
        settings = [self._config.batch_size, self._config.max_length, [described(task) for task in self._tasks]]
        digest.update(json.dumps(settings).encode())
        for chunk in (chunk for split in SPLITS for chunk in self.chunks(split)):
            for document in chunk:
                requests = self._prepared[document.task].requests[document.key]
                content = [astuple(document), [(r.request_type, r.args, r.repeats) for r in requests]]
                digest.update(json.dumps(content, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:32]

    def score(
        self, model: PreTrainedModel, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        """The scores of `documents`, in their order, each with every metric of its task.

        Sampled generations are drawn with a seed of the documents scored together: the same for every candidate.

        Args:
            model: a causal or sequence-to-sequence language model, on whichever device; scored with the weights that
                it has now, and left in evaluation mode.
            documents: from this evaluator; those of one task run together.
            weights: a name for the weights.
            proxy: score by the tasks' stand-ins.

        Raises:
            CandidateError: NaN logits, or whatever else went wrong inside of the model.
            InputError: tokenizer or tasks do not fit the model.
            ValueError: a document is not from this evaluator.
        """
        wanted = list(documents)
        unknown = [document for document in wanted if document not in self._order]
        if unknown:
            raise ValueError(f"documents must come from this evaluator, but {unknown[0]} does not")
        of_task: dict[str, list[Document]] = {}
        for document in wanted:
            of_task.setdefault(document.task, []).append(document)
        for together in of_task.values():
            together.sort(key=lambda document: self._order[document])
        scores: dict[tuple[str, str], list[DocumentScore]] = {}
        with quiet(), seeded(0), torch.no_grad(), watch_logits(model) as watch:
            live = self._wrap(model)
            for together in of_task.values():
                for score in self._score_chunk(live, watch, together):
                    scores.setdefault((score.task, score.document), []).append(score)
        return [score for document in wanted for score in scores[document.task, document.key]]

    def _score_chunk(self, live: LiveModel, watch: LogitsWatch, chunk: Sequence[Document]) -> list[DocumentScore]:
        prepared = self._prepared[chunk[0].task]
        reseed(_seed(chunk))
        try:
            _respond(live, prepared.instances(chunk), watch)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise CandidateError(
                f"out of memory on task {prepared.name!r} with batch_size {live.batch_size}; lower batch_size"
            ) from error
        except Exception as error:
            watch.check(prepared.name)
            raise CandidateError(f"task {prepared.name!r} cannot be scored: {one_line(error)}") from error
        watch.check(prepared.name)
        return prepared.results(chunk, [metric for metric in self._tasks if metric.task == prepared.name])

    def _wrap(self, model: PreTrainedModel) -> LiveModel:
        batch_size = self._config.batch_size
        if batch_size == "auto":
            batch_size = 32 if model.device.type == "cpu" else 64
        live = LiveModel(model, self._tokenizer, batch_size, self._config.max_length, self._memory)
        self._require_fit(live)
        return live

    def _require_fit(self, live: LiveModel) -> None:
        """Check once for each context length and vocabulary that the prompts fit; say how many are cut."""
        shape = (live.max_length, live.model.get_input_embeddings().weight.shape[0])
        if shape in self._fitted:
            return
        for name, prepared in self._prepared.items():
            requests = [request for of_document in prepared.requests.values() for request in of_document]
            cut = live.count_cut(name, requests)
            if cut:
                log.warning(
                    "%d of %d requests of task %r exceed the model's %d tokens and lose their beginning, as in lm-eval",
                    cut,
                    len(requests),
                    name,
                    live.max_length,
                )
        self._fitted.add(shape)

    @property
    def _chunk_size(self) -> int:
        """The lowest multiple of the batch size that reaches CHUNK; the device has no part in it."""
        batch_size = self._config.batch_size
        return CHUNK if batch_size == "auto" else batch_size * math.ceil(CHUNK / batch_size)


def _respond(live: LiveModel, instances: Iterable[Instance], watch: LogitsWatch) -> None:
    """Let the model answer the requests and hang the answers on them, as `lm_eval.evaluate` does."""
    by_type: dict[str, list[Instance]] = {}
    for instance in instances:
        by_type.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
    for request_type, requests in by_type.items():
        responses = getattr(live, request_type)(requests, disable_tqdm=True)
        for instance, response in zip(requests, responses, strict=True):
            watch.note_response(response)
            instance.resps.append(response)


def _seed(chunk: Iterable[Document]) -> int:
    names = "/".join(f"{document.task}/{document.key}" for document in chunk)
    return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7], "big")
