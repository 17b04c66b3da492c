"""Scores from Python functions of the user's: anything that can be computed from a model and its tokenizer."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evomerge.errors import CandidateError, EvomergeError, InputError, unknown_name
from evomerge.evaluators.config import EvaluateConfig, TaskSpec
from evomerge.evaluators.entries import Entry, entries
from evomerge.evaluators.evaluator import evaluator
from evomerge.evaluators.files import read_documents
from evomerge.evaluators.planned import Planned
from evomerge.evaluators.quiet import quiet, seeded
from evomerge.evaluators.splits import assigned, content_digest, ranked
from evomerge.evaluators.taskfiles import one_line
from evomerge.evaluators.types import SPLITS, Document, DocumentScore, TaskMetric, described

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCORE = "score"  # what the metric of a function is called where the configuration gives it no name

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """One function with its documents.

    Attributes:
        name: the task's name.
        function: as the configuration names it, for errors.
        call: the function.
        source: a digest of its module's source, "" where there is none.
        contents: by document key what the function gets; None: it scores the model as a whole.
        documents: those that fall into a split; of a function without documents one for each split.
    """

    name: str
    function: str
    call: Callable[..., Any]
    source: str
    contents: Mapping[str, Any] | None
    documents: tuple[Document, ...]


@evaluator("function")
class Functions(Planned):
    """Scores live models by functions.

    A function is called as `function(model, tokenizer)` and returns a number, or numbers by the names of metrics. With
    `documents` in its entry it is called as `function(model, tokenizer, documents)`, gets a chunk of them (dicts and
    other JSON of JSON lines, texts of text lines), and returns a sequence with one number or table of numbers for each,
    in their order. Without documents it is called once for the weights that it sees, and what it returns stands in
    each split.

    It is called with the model in evaluation mode, without gradients, with the global random generators at seed 0, and
    finds the device as `model.device`. It must leave the weights as they are; nobody checks.

    Modules are found on `sys.path`, to whose end the current directory is added.

    Args:
        config: its entries must all be functions.
        tokenizer: of all candidates; each call gets the same copy.

    Raises:
        InputError: a function that cannot be imported or takes other arguments, a file of documents that cannot be
            read, a split without documents, or two entries of one name that are not the same function.
    """

    def __init__(self, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._by_name: dict[str, Task] = {}
        specs: dict[str, TaskSpec] = {}
        metrics: dict[tuple[str, str], TaskMetric] = {}
        for entry in entries(config):
            name = entry.spec.task
            if name not in specs:
                specs[name], self._by_name[name] = entry.spec, _prepared(entry.spec, config)
            _require_same(specs[name], entry.spec)
            _add(metrics, entry)
        self._tasks = tuple(metrics.values())
        self._memo: tuple[str | None, dict[str, list[Numbers]]] = (None, {})
        super().__init__({name: task.documents for name, task in self._by_name.items()}, config)

    @property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured, in the order of the configuration."""
        return self._tasks

    def fingerprint(self) -> str:
        """32 hexadecimal digits of SHA-256 over metrics, documents, chunks and the source of the functions' modules."""
        content: list[Any] = [[described(metric) for metric in self._tasks], self._chunk_size]
        for task in self._by_name.values():
            documents = [(d.key, d.index, d.split) for d in task.documents]
            content.append([task.name, task.function, task.source, task.contents is None, documents])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def score(
        self, model: PreTrainedModel, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        """The scores of `documents`, in their order, each with every metric of its task.

        Args:
            model: a model, on whichever device; left in evaluation mode.
            documents: from this evaluator; those of one task go to the function together.
            weights: a name for the weights: a function without documents is called once for each name, or, without a
                name, once a call.
            proxy: there are no stand-ins.

        Raises:
            CandidateError: a function raises, or returns a number that is not finite.
            InputError: a function returns something else than it has to.
            ValueError: a document is not from this evaluator.
        """
        wanted = list(documents)
        if weights is None or self._memo[0] != weights:
            self._memo = (weights, {})
        whole = self._memo[1]
        found: dict[tuple[str, str], Numbers] = {}
        model.eval()  # type: ignore[no-untyped-call]
        with quiet(), seeded(0), torch.no_grad():
            for name, together in self._by_task(wanted).items():
                task = self._by_name[name]
                if task.contents is None and name not in whole:
                    whole[name] = self._called(task, model, [])
                numbers = whole[name] * len(together) if task.contents is None else self._called(task, model, together)
                found |= {(name, document.key): each for document, each in zip(together, numbers, strict=True)}
        return [
            DocumentScore(document.task, document.key, metric.label, found[document.task, document.key][metric.label])
            for document in wanted
            for metric in self._tasks
            if metric.task == document.task
        ]

    def _called(self, task: Task, model: PreTrainedModel, documents: Sequence[Document]) -> list[Numbers]:
        """What a function says of the documents, or of the model as a whole; by metric."""
        contents = [] if task.contents is None else [[copy.deepcopy(task.contents[d.key]) for d in documents]]
        try:
            returned = task.call(model, self._tokenizer, *contents)
        except EvomergeError:
            raise
        except Exception as error:
            raise CandidateError(f"function {task.function!r} raised {one_line(error)}") from error
        of_each = [returned] if task.contents is None else _sequence(task, returned, len(documents))
        metrics = [metric for metric in self._tasks if metric.task == task.name]
        return [{metric.label: _number(task, each, metric, len(metrics)) for metric in metrics} for each in of_each]


def _prepared(spec: TaskSpec, config: EvaluateConfig) -> Task:
    if spec.function is None:
        raise InputError(f"entries of evaluator 'function' must name a function, but {spec.task!r} has none")
    call, source = _imported(spec.function, 2 if spec.documents is None else 3)
    if spec.documents is None:
        shares = {split: getattr(config.splits, split) for split in SPLITS}
        own = [
            Document(spec.task, content_digest([spec.function, split]), place, split)
            for place, split in enumerate(SPLITS)
            if shares[split] > 0
        ]
        return Task(spec.task, spec.function, call, source, None, tuple(own))
    contents = read_documents(spec.documents, f"documents of task {spec.task!r}")
    ranks = ranked(contents, config.limit)
    by_key = {rank.key: contents[rank.index] for rank in ranks}
    return Task(spec.task, spec.function, call, source, by_key, assigned(spec.task, ranks, config.splits))


def _imported(name: str, arguments: int) -> tuple[Callable[..., Any], str]:
    """The function called `package.module:function`, and a digest of its module's source."""
    home, _, own = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(home)
    except Exception as error:
        raise InputError(
            f"function must be in a module on sys.path or in {os.getcwd()!r}, but importing {name!r} "
            f"gives {one_line(error)}"
        ) from error
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    call = getattr(module, own, None)
    if call is None:
        raise unknown_name(f"function of module {home!r}", own, functions)
    if not callable(call):
        raise InputError(f"function must be callable, but {name!r} is a {type(call).__name__}")
    _require_arguments(name, call, arguments)
    file = getattr(module, "__file__", None)
    source = Path(file).read_bytes() if file and file.endswith(".py") else b""
    return call, hashlib.sha256(source).hexdigest()[:32] if source else ""


def _require_arguments(name: str, call: Callable[..., Any], count: int) -> None:
    wanted = ("model", "tokenizer", "documents")[:count]
    try:
        inspect.signature(call).bind(*wanted)
    except TypeError as error:
        raise InputError(f"function {name!r} must take ({', '.join(wanted)}), but has {error}") from error
    except ValueError:  # a function written in C may have no signature; calling it will tell
        return


def _require_same(first: TaskSpec, second: TaskSpec) -> None:
    if (first.function, first.documents) != (second.function, second.documents):
        raise InputError(
            f"a task's name must stand for one task, but {first.task!r} stands for {first.function!r} and "
            f"{second.function!r}, or for other documents; give one of them another `task`"
        )


def _add(metrics: dict[tuple[str, str], TaskMetric], entry: Entry) -> None:
    """Add what an entry measures; for a constraint alone only what is not measured already."""
    spec = entry.spec
    place = (spec.task, spec.metric or SCORE)
    if entry.for_constraint and (place in metrics or (spec.metric is None and spec.task in {t for t, _ in metrics})):
        return
    if place in metrics:
        raise InputError(f"a task and metric must be named once, but {spec.task!r} with {place[1]} is twice")
    direction = True if spec.higher_is_better is None else spec.higher_is_better
    metrics[place] = TaskMetric(spec.task, place[1], higher_is_better=direction, weight=entry.weight)


def _sequence(task: Task, returned: Any, count: int) -> Sequence[Any]:
    if isinstance(returned, str | Mapping) or not hasattr(returned, "__len__") or not hasattr(returned, "__getitem__"):
        raise InputError(
            f"function {task.function!r} must return a sequence with a score for each document, "
            f"but returned a {type(returned).__name__}"
        )
    if len(returned) != count:
        raise InputError(
            f"function {task.function!r} must return one score for each of {count} documents, but returned "
            f"{len(returned)}"
        )
    return [returned[place] for place in range(count)]


def _number(task: Task, returned: Any, metric: TaskMetric, metrics: int) -> float:
    """The number that stands for a metric: the only one, that of the metric's name, or the first."""
    value = returned
    if isinstance(returned, Mapping):
        name = metric.metric if metric.metric in returned or metric.metric != SCORE else next(iter(returned), SCORE)
        if name not in returned:
            raise unknown_name(f"metric of function {task.function!r}", name, map(str, returned))
        value = returned[name]
    elif metrics > 1:
        raise InputError(
            f"function {task.function!r} must return its {metrics} metrics by name, "
            f"but returned a {type(returned).__name__}"
        )
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise InputError(f"scores of function {task.function!r} must be numbers, but one is a {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"scores of function {task.function!r} must be single numbers, but one is: {one_line(error)}"
        ) from error
    if not math.isfinite(number):
        raise CandidateError(f"scores of function {task.function!r} must be finite, but {metric.metric} is {number}")
    return number
