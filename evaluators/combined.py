"""One evaluator of several: each kind of task has its own, and a search sees one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from evomerge.errors import InputError
from evomerge.evaluators.config import EvaluateConfig, Kind
from evomerge.evaluators.entries import entries
from evomerge.evaluators.evaluator import EVALUATORS, Evaluator
from evomerge.evaluators.planned import Rungs
from evomerge.evaluators.texts import DocumentText
from evomerge.evaluators.types import SPLITS, Document, DocumentScore, Split, TaskMetric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Combined:
    """Several evaluators as one; their tasks differ.

    Args:
        parts: two or more.
        order: the tasks' names as the configuration lists them.

    Attributes:
        parts: those given.

    Raises:
        InputError: two parts have a task of one name.
    """

    def __init__(self, parts: Sequence[Evaluator], order: Sequence[str]) -> None:
        self.parts = tuple(parts)
        self._home: dict[str, Evaluator] = {}
        for part in parts:
            for name in dict.fromkeys(task.task for task in part.tasks):
                if name in self._home:
                    raise InputError(
                        f"a task's name must stand for one task, but {name!r} stands for two; give one of them "
                        "another `task`"
                    )
                self._home[name] = part
        self._tasks = _in_order([part.tasks for part in parts], order)
        self._plan = {split: _merged([part.rungs(split) for part in parts]) for split in SPLITS}

    @property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured, in the order of the configuration; a group's tasks stand together."""
        return self._tasks

    @property
    def proxies(self) -> Mapping[str, TaskMetric]:
        """By task, the stand-ins of all parts."""
        return {name: metric for part in self.parts for name, metric in part.proxies.items()}

    @property
    def needs_reference(self) -> bool:
        """Whether a part needs it."""
        return any(part.needs_reference for part in self.parts)

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The documents of a split over all tasks, in the order of `chunks`."""
        return tuple(document for chunk in self.chunks(split) for document in chunk)

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        """The parts' chunks, in the order of `rungs`."""
        return tuple(chunk for rung in self._plan[split] for chunk in rung)

    def rungs(self, split: Split) -> Rungs:
        """The parts' rungs put together, so that all parts come forward by about the same share of their documents."""
        return self._plan[split]

    def planned(self, documents: Sequence[Document]) -> Rungs:
        """As `rungs`, for some of the documents."""
        return _merged([part.planned(self._of(part, documents)) for part in self.parts])

    def fingerprint(self) -> str:
        """A digest of the parts' digests."""
        return hashlib.sha256(json.dumps([part.fingerprint() for part in self.parts]).encode()).hexdigest()[:32]

    def prompts(self, count: int) -> tuple[str, ...]:
        """The prompts of all parts."""
        return tuple(prompt for part in self.parts for prompt in part.prompts(count))

    def text(self, document: Document) -> DocumentText | None:
        """As the document's part has it; None where that is of a kind that knows no texts."""
        part = self._home[document.task]
        return part.text(document) if hasattr(part, "text") else None

    def refer(self, model: PreTrainedModel) -> None:
        """Let the parts that need it take what they need of the base."""
        for part in self.parts:
            if part.needs_reference:
                part.refer(model)

    def score(
        self, model: PreTrainedModel, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        """The scores of `documents`, in their order, each part's from that part; see `Evaluator.score`."""
        wanted = list(documents)
        unknown = [document for document in wanted if document.task not in self._home]
        if unknown:
            raise ValueError(f"documents must come from this evaluator, but {unknown[0]} does not")
        scores: dict[tuple[str, str], list[DocumentScore]] = {}
        for part in self.parts:
            own = self._of(part, wanted)
            for score in part.score(model, own, weights, proxy=proxy) if own else ():
                scores.setdefault((score.task, score.document), []).append(score)
        return [score for document in wanted for score in scores[document.task, document.key]]

    def _of(self, part: Evaluator, documents: Iterable[Document]) -> list[Document]:
        return [document for document in documents if self._home.get(document.task) is part]


def combined(config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> Evaluator:
    """The evaluator of all tasks and constraints of a configuration.

    Tasks of lm-eval and texts go to the evaluator that `config.evaluator` names, functions to "function", divergences
    from the base to "kl_from_base"; where all go to one, it is that one.

    Raises:
        InputError: anything that the user can get wrong.
    """
    home: dict[Kind, str] = {
        "task": config.evaluator,
        "perplexity": config.evaluator,
        "function": "function",
        "kl_from_base": "kl_from_base",
    }
    EVALUATORS.get(config.evaluator)  # its name is checked even where no task is its own
    names = dict.fromkeys(home[entry.spec.kind] for entry in entries(config))
    parts = [EVALUATORS.get(name)(_restricted(config, name, home), tokenizer) for name in names]
    return parts[0] if len(parts) == 1 else Combined(parts, [spec.task for spec in config.tasks])


def _restricted(config: EvaluateConfig, name: str, home: Mapping[Kind, str]) -> EvaluateConfig:
    """The configuration with the tasks and constraints of one evaluator."""
    own = tuple(spec for spec in config.tasks if home[spec.kind] == name)
    constraints = tuple(constraint for constraint in config.constraints if home[constraint.spec.kind] == name)
    return config.model_copy(update={"tasks": own, "constraints": constraints})


def _in_order(of_parts: Sequence[Sequence[TaskMetric]], order: Sequence[str]) -> tuple[TaskMetric, ...]:
    """The parts' tasks in the configuration's order, those of weight 0 last.

    Tasks that the configuration does not name belong to a group; groups stand at the place of the first.
    """
    named = {name: place for place, name in reversed(list(enumerate(order)))}
    there = {task.task for tasks in of_parts for task in tasks}
    first_group = min((place for name, place in named.items() if name not in there), default=len(order))
    everything = [task for tasks in of_parts for task in tasks]
    everything.sort(key=lambda task: (task.weight == 0, named.get(task.task, first_group)))
    return tuple(everything)


def _merged(of_parts: Sequence[Rungs]) -> Rungs:
    """The parts' rungs put together.

    The part with the most rungs leads; another's next rung is due once the leader is past the other's share of
    documents.
    """
    sizes = [[sum(map(len, rung)) for rung in rungs] for rungs in of_parts]
    leading = max(sizes, key=len)
    merged = []
    done = [0] * len(of_parts)  # rungs
    for passed in accumulate(leading):
        together: list[tuple[Document, ...]] = []
        for place, rungs in enumerate(of_parts):
            had, total = sum(sizes[place][: done[place]]), sum(sizes[place])
            while had * sum(leading) < passed * total:
                together += rungs[done[place]]
                had += sizes[place][done[place]]
                done[place] += 1
        merged.append(tuple(together))
    return tuple(merged)
