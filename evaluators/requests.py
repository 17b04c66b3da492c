"""One task, prepared: its documents, their prompts as lm-eval writes them, and what the responses are worth."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jinja2
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM

from evomerge.errors import CandidateError, InputError, unknown_name
from evomerge.evaluators.calibration import CALIBRATION_ERROR, EXPECTED_CALIBRATION_ERROR, answered
from evomerge.evaluators.config import EvaluateConfig
from evomerge.evaluators.measuring import document_score
from evomerge.evaluators.quiet import reseed
from evomerge.evaluators.splits import assigned, ranked
from evomerge.evaluators.taskfiles import one_line, without_documents
from evomerge.evaluators.types import Document, DocumentScore, TaskMetric

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatTemplate = Callable[..., str]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedTask:
    """A task with its requests built.

    Attributes:
        name: the task's name.
        task: as lm-eval loaded it.
        documents: those that fall into a split, in the common shuffled order.
        requests: for each document's key its requests, in lm-eval's order.
        declared: the metrics that the task lists; what its functions return is added to lm-eval's list as they run.
    """

    name: str
    task: Task
    documents: tuple[Document, ...]
    requests: dict[str, list[Instance]]
    declared: frozenset[str]

    def instances(self, documents: Iterable[Document]) -> list[Instance]:
        """The requests of `documents`, in order, with the responses of earlier candidates removed."""
        instances = [instance for document in documents for instance in self.requests[document.key]]
        for instance in instances:
            instance.resps = []
            instance.filtered_resps = {}
        return instances

    def results(self, documents: Sequence[Document], metrics: Sequence[TaskMetric]) -> list[DocumentScore]:
        """What the responses now held by the documents' requests are worth.

        Raises:
            CandidateError: the task's own code failed on a response.
            InputError: the task's results are of no use to a metric.
        """
        results: dict[str, list[dict[str, Any]]] = {}
        for name in {metric.filter for metric in metrics}:
            try:
                results[name] = self._processed(documents, name, metrics)
            except Exception as error:
                raise CandidateError(f"task {self.name!r} failed on a response: {one_line(error)}") from error
        return [
            document_score(metric, document.key, results[metric.filter][place], self.declared)
            for place, document in enumerate(documents)
            for metric in metrics
        ]

    def _processed(
        self, documents: Sequence[Document], name: str, metrics: Sequence[TaskMetric]
    ) -> list[dict[str, Any]]:
        (ensemble,) = (ensemble for ensemble in self.task._filters if ensemble.name == name)
        ensemble.apply([instance for document in documents for instance in self.requests[document.key]])
        calibrated = any(metric.aggregation is EXPECTED_CALIBRATION_ERROR for metric in metrics)
        processed = []
        for document in documents:
            instances = self.requests[document.key]
            responses = [instance.filtered_resps[name] for instance in instances]
            # A task's code may change the document that it is given.
            found = self.task.process_results(copy.deepcopy(instances[0].doc), responses)
            if calibrated:
                found = {**found, CALIBRATION_ERROR: answered(self.task, copy.deepcopy(instances[0].doc), responses)}
            processed.append(found)
        return processed


def prepare(name: str, task: Task, config: EvaluateConfig, chat_template: ChatTemplate | None) -> PreparedTask:
    """Choose a task's documents and build their requests.

    Without worked examples in the prompts only the chosen documents' requests are built. With them all are, as
    lm-eval draws the examples from one stream over the documents.

    Args:
        name: the task's name.
        task: as lm-eval loaded it, its few-shot settings made.
        config: says limit, splits and how prompts are written.
        chat_template: turns messages into a prompt; None: plain text.

    Raises:
        InputError: a split without a document, a document without choices, or prompts that cannot be built.
    """
    reseed(config.fewshot_seed)  # some tasks shuffle choices as they read their documents
    contents = list(scored_documents(name, task))
    documents = assigned(name, ranked(contents, config.limit), config.splits)
    chosen = {document.index for document in documents}
    built = range(len(contents)) if task.get_config("num_fewshot") else sorted(chosen)
    # Read once and under their own numbers: lm-eval's `samples` reads the data twice and counts from 0.
    task.doc_iterator = lambda **_: ((index, contents[index]) for index in built)
    try:
        task.build_all_requests(
            system_instruction=config.system_instruction,
            apply_chat_template=bool(config.apply_chat_template),
            fewshot_as_multiturn=config.fewshot_as_multiturn,
            chat_template=chat_template,
        )
    except Exception as error:
        raise InputError(f"prompts of task {name!r} must be buildable, but lm-eval says {one_line(error)}") from error
    requests: dict[int, list[Instance]] = {index: [] for index in chosen}
    for instance in task.instances:
        if instance.doc_id in chosen:
            requests[instance.doc_id].append(instance)
    for index, of_document in requests.items():
        if not of_document:
            raise InputError(f"documents of task {name!r} must have choices, but number {index} has none")
        of_document.sort(key=lambda instance: instance.idx)
    by_key = {document.key: requests[document.index] for document in documents}
    return PreparedTask(name, task, documents, by_key, frozenset(task.aggregation()))


def scored_documents(name: str, task: Task) -> Sequence[Any]:
    """The documents that a task is scored on: of its test split, without one of its validation split.

    Raises:
        InputError: it has neither.
    """
    if not task.has_test_docs() and not task.has_validation_docs():
        raise without_documents(name)
    documents: Sequence[Any] = task.eval_docs
    return documents


def set_fewshot(name: str, task: Task, num_fewshot: int | None, seed: int) -> None:
    """Settle how many worked examples the prompts get and which, as lm-eval does.

    Raises:
        InputError: the task's file fixes the number at 0 and another one is wanted.
    """
    own = task.get_config("num_fewshot")
    if own == 0 and num_fewshot:
        raise InputError(f"num_fewshot of task {name!r} must be 0, as its file says so, but got {num_fewshot}")
    shots = num_fewshot if num_fewshot is not None else own or 0
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(seed)
    if shots and not _has_own_examples(task):
        log.warning(
            "task %r has no data of its own for worked examples: it draws them from the documents it is scored on", name
        )


def chat_template_of(tokenizer: PreTrainedTokenizerBase, config: EvaluateConfig) -> ChatTemplate | None:
    """lm-eval's rendering of messages through the tokenizer's chat template; None where the configuration wants none.

    Raises:
        InputError: the tokenizer has no chat template or none of that name, or it refuses a system message.
    """
    wanted = config.apply_chat_template
    if not wanted:
        return None
    templates = tokenizer.chat_template
    if not templates:
        raise InputError("apply_chat_template must be false for a tokenizer without a chat template, but got true")
    arguments: dict[str, Any] = {}
    if isinstance(wanted, str):
        if not isinstance(templates, dict):
            raise InputError(f"apply_chat_template must be true or false for one template, but got {wanted!r}")
        if wanted not in templates:
            raise unknown_name("apply_chat_template", wanted, templates)
        arguments = {"chat_template": wanted}
    renderer = SimpleNamespace(tokenizer=tokenizer, chat_template_args=arguments)

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(HFLM.apply_chat_template(renderer, messages, add_generation_prompt))

    if config.system_instruction:
        _require_system_message(tokenizer, config.system_instruction, arguments)
    return render


def _require_system_message(tokenizer: PreTrainedTokenizerBase, instruction: str, arguments: dict[str, Any]) -> None:
    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": "?"}]
    try:
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
    except jinja2.exceptions.TemplateError as error:
        raise InputError(
            f"system_instruction must be null for a chat template without a system message: {one_line(error)}"
        ) from error


def _has_own_examples(task: Task) -> bool:
    settings = task.get_config("fewshot_config")
    if getattr(settings, "samples", None) is not None and getattr(settings, "split", None) is None:
        return True
    scored = task.get_config("test_split") or task.get_config("validation_split")
    source = (
        getattr(settings, "split", None) or task.get_config("training_split") or task.get_config("validation_split")
    )
    return source is not None and source != scored
