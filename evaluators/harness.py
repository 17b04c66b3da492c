"""Scores from lm-eval's tasks: prompts, filters and metrics are lm-eval's, prepared once for all candidates.

Parity: on every document the score is what `lm_eval.evaluate` gives for the same model, tasks and settings.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from itertools import islice
from typing import TYPE_CHECKING

import torch

from evomerge.errors import CandidateError, EvomergeError
from evomerge.evaluators.config import EvaluateConfig
from evomerge.evaluators.evaluator import evaluator
from evomerge.evaluators.loading import load_tasks, task_metrics, unique
from evomerge.evaluators.planned import Planned
from evomerge.evaluators.proxy import references, sample_text, stand_in
from evomerge.evaluators.quiet import quiet, reseed, seeded
from evomerge.evaluators.requests import chat_template_of, prepare
from evomerge.evaluators.responding import Attached, Responder
from evomerge.evaluators.taskfiles import one_line
from evomerge.evaluators.texts import DocumentText, text_of
from evomerge.evaluators.types import SPLITS, Document, DocumentScore, TaskMetric, described
from evomerge.evaluators.watch import LogitsWatch, watch_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WAY = 2  # counts the ways in which requests have been run together: scores of another one differ by rounding


@evaluator("lm_eval")
class LmEval(Planned):
    """Scores live models on lm-eval tasks.

    Documents are scored in chunks of a fixed plan: all of a chunk's requests go through the model together and apart
    from those of other chunks, so a candidate's score does not depend on which other chunks are scored, not even in
    bfloat16, where the makeup of a batch moves the logits.

    Args:
        config: the tasks and how they are scored.
        tokenizer: of all candidates; it is copied.

    Attributes:
        config: the one given.
        prepared: the tasks' requests by name.
        responder: runs them.

    Raises:
        InputError: an unknown task, metric or filter, a task that does not load, a split without documents, or
            settings that do not go together.
    """

    def __init__(self, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config = config
        self._tokenizer = copy.deepcopy(tokenizer)
        with quiet(), seeded(config.fewshot_seed):
            specs = load_tasks(config)
            self._tasks = task_metrics(specs)
            chat_template = chat_template_of(self._tokenizer, config)
            self.prepared = {name: prepare(name, task, config, chat_template) for name, task in unique(specs).items()}
            found = {name: references(task) for name, task in self.prepared.items()} if config.proxy else {}
        targets = {name: texts for name, texts in found.items() if texts is not None}
        self._proxies = {name: stand_in(name, self._tasks) for name in targets}
        self.responder = Responder(config, self._tokenizer, self.prepared, targets)
        super().__init__({name: prepared.documents for name, prepared in self.prepared.items()}, config)

    @property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured, in the order of the configuration; a group's tasks stand in its place."""
        return self._tasks

    @property
    def proxies(self) -> Mapping[str, TaskMetric]:
        """The log-likelihoods of reference answers, where the configuration wants them."""
        return self._proxies

    def prompts(self, count: int) -> tuple[str, ...]:
        """The texts of the first `count` documents of each task in `search`: a prompt and what may follow it."""
        texts = []
        for prepared in self.prepared.values():
            for document in islice((d for d in prepared.documents if d.split == "search"), count):
                texts.append(sample_text(prepared.task, prepared.requests[document.key][0]))
        return tuple(texts)

    def text(self, document: Document) -> DocumentText:
        """The document's prompt and its reference answer."""
        prepared = self.prepared[document.task]
        return text_of(prepared.task, prepared.requests[document.key])

    def fingerprint(self) -> str:
        """32 hexadecimal digits of SHA-256 over all that scores depend on beside the model.

        These are the documents and their splits, the requests as the model gets them, what is measured, and how
        requests are run together.
        """
        digest = hashlib.sha256()
        config = self.config
        measured = [described(task) for task in self._tasks]
        settings = [WAY, config.batch_size, config.max_length, config.generation, measured]
        digest.update(json.dumps(settings).encode())
        for chunk in (chunk for split in SPLITS for chunk in self.chunks(split)):
            for document in chunk:
                requests = self.prepared[document.task].requests[document.key]
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
        of_task = self._by_task(wanted)
        scores: dict[tuple[str, str], list[DocumentScore]] = {}
        with quiet(), seeded(0), torch.no_grad(), watch_logits(model) as watch:
            attached = self.responder.attach(model, weights)
            try:
                for name, together in of_task.items():
                    by_proxy = proxy and name in self._proxies
                    for score in self._score_chunk(attached, watch, together, by_proxy):
                        scores.setdefault((score.task, score.document), []).append(score)
            finally:
                self.responder.detach()
        return [score for document in wanted for score in scores[document.task, document.key]]

    def _score_chunk(
        self, attached: Attached, watch: LogitsWatch, chunk: Sequence[Document], by_proxy: bool
    ) -> list[DocumentScore]:
        prepared = self.prepared[chunk[0].task]
        reseed(_seed(chunk))
        values: list[float] = []
        try:
            if by_proxy:
                values = self.responder.stand_in(attached, prepared, chunk)
            else:
                for instance in self.responder.respond(attached, prepared, chunk):
                    watch.note_responses(instance.resps)
        except EvomergeError:
            raise
        except Exception as error:
            watch.check(prepared.name)
            raise CandidateError(f"task {prepared.name!r} cannot be scored: {one_line(error)}") from error
        watch.note_responses(values)
        watch.check(prepared.name)
        if by_proxy:
            label = self._proxies[prepared.name].label
            return [
                DocumentScore(prepared.name, document.key, label, value)
                for document, value in zip(chunk, values, strict=True)
            ]
        return prepared.results(chunk, [metric for metric in self._tasks if metric.task == prepared.name])


def _seed(chunk: Iterable[Document]) -> int:
    names = "/".join(f"{document.task}/{document.key}" for document in chunk)
    return int.from_bytes(hashlib.sha256(names.encode()).digest()[:7], "big")
