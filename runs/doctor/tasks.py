"""The tasks of a configuration, each loaded as far as it can be, and the texts of their documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import InputError
from evomerge.evaluators import Document, EvaluateConfig, Evaluator, Split, TaskMetric, TaskSpec, make_evaluator
from evomerge.evaluators.entries import entries
from evomerge.evaluators.taskfiles import one_line
from evomerge.runs.doctor.findings import LeftOut

if TYPE_CHECKING:
    from evomerge.evaluators.requests import PreparedTask

AWAY = ("ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFound", "Couldn't reach", "doesn't exist on the Hub")
"""What the errors of data sets say that are not on this machine, where the hub does not answer."""


@dataclass(frozen=True)
class Tasks:
    """The tasks that load, and what keeps the others from it.

    Attributes:
        evaluators: of all tasks together, or of each that loads where one does not.
        troubles: by the task's name in the configuration.
        left_out: the same of tasks that are out of sight.
    """

    evaluators: tuple[Evaluator, ...]
    troubles: Mapping[str, InputError]
    left_out: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Whether all tasks are there."""
        return not self.troubles and not self.left_out

    @property
    def metrics(self) -> tuple[TaskMetric, ...]:
        """What is measured."""
        return tuple(metric for evaluator in self.evaluators for metric in evaluator.tasks)

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks that have documents."""
        return tuple(dict.fromkeys(metric.task for metric in self.metrics))

    @property
    def prepared(self) -> dict[str, PreparedTask]:
        """lm-eval's tasks among them, with their requests."""
        found: dict[str, PreparedTask] = {}
        for evaluator in self.evaluators:
            for part in getattr(evaluator, "parts", [evaluator]):
                found |= getattr(part, "prepared", {})
        return found

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The documents of a split."""
        return tuple(document for evaluator in self.evaluators for document in evaluator.documents(split))

    def counts(self, split: Split) -> dict[str, int]:
        """How many documents each task has in a split."""
        counts = dict.fromkeys(self.names, 0)
        for document in self.documents(split):
            counts[document.task] += 1
        return counts


class _AbsentTokenizer:
    """Stands for a tokenizer that is out of sight: tasks that need none are prepared without it."""

    chat_template = None

    def __deepcopy__(self, memo: object) -> _AbsentTokenizer:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise LeftOut("the candidate's tokenizer is out of sight")


def load(config: EvaluateConfig, tokenizer: Any | None, *, offline: bool = False) -> Tasks:
    """All tasks together; where one of them does not load, each by itself, so that all troubles are told.

    Args:
        config: the section `evaluate`.
        tokenizer: of the candidates; None: out of sight.
        offline: whether data sets that are not on this machine are left out.
    """
    if tokenizer is None and config.apply_chat_template:
        names = [entry.spec.task for entry in entries(config)]
        return Tasks((), {}, dict.fromkeys(names, "its prompts take the candidate's chat template"))
    held = _AbsentTokenizer() if tokenizer is None else tokenizer
    with _hub(offline=offline):
        found = _loaded(config, held)
        if not isinstance(found, InputError | LeftOut):
            return Tasks((found,), {}, {})
        single = {name: _loaded(part, held) for name, part in _singly(config).items()}
    evaluators = tuple(each for each in single.values() if not isinstance(each, InputError | LeftOut))
    troubles = {name: each for name, each in single.items() if isinstance(each, InputError) and not _is_away(each)}
    left = {
        name: str(each)
        for name, each in single.items()
        if isinstance(each, LeftOut) or (isinstance(each, InputError) and _is_away(each))
    }
    if not troubles and not left and isinstance(found, InputError):  # only together they are wrong
        troubles = {"": found}
    return Tasks(evaluators, troubles, left)


def _loaded(config: EvaluateConfig, tokenizer: Any) -> Evaluator | InputError | LeftOut:
    try:
        return make_evaluator(config, tokenizer)
    except (InputError, LeftOut) as error:
        return error


def _is_away(error: InputError) -> bool:
    return any(sign in str(error) for sign in AWAY)


def _singly(config: EvaluateConfig) -> dict[str, EvaluateConfig]:
    """A configuration for each task; constraints on tasks of their own count as tasks."""
    specs: dict[str, TaskSpec] = {}
    for entry in entries(config):
        specs.setdefault(entry.spec.task, entry.spec)
    plain = {"constraints": (), "objective": "mean"}
    return {name: config.model_copy(update={"tasks": (spec,), **plain}) for name, spec in specs.items()}


@contextmanager
def _hub(*, offline: bool) -> Iterator[None]:
    """Within the block the hub's libraries use their caches alone, if `offline`."""
    if not offline:
        yield
        return
    import datasets.config
    import huggingface_hub.constants

    homes = [(huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(home, name) for home, name in homes]
    for home, name in homes:
        setattr(home, name, True)
    try:
        yield
    finally:
        for (home, name), value in zip(homes, before, strict=True):
            setattr(home, name, value)


def question(task: Any, document: Any, prompt: str) -> str:
    """A document's own text: without worked examples, instructions or a chat template; `prompt` where it has none."""
    try:
        text = task.doc_to_text(document)
    except Exception:  # whatever a task's own code does
        return prompt
    return text if isinstance(text, str) and text.strip() else prompt


def answers(task: Any, document: Any) -> tuple[str, ...] | None:
    """A document's right answers as texts; None where the task gives none."""
    try:
        target = task.doc_to_target(document)
        choices = getattr(task.config, "doc_to_choice", None)
        if isinstance(target, int) and choices is not None:
            target = task.doc_to_choice(document)[target]
    except Exception:  # whatever a task's own code does
        return None
    targets: Iterable[Any] = target if isinstance(target, list | tuple) else (target,)
    texts = tuple(str(each) for each in targets if isinstance(each, str | int | float))
    return texts or None


def trouble_of(error: BaseException) -> str:
    """An error in one line."""
    return str(error) if isinstance(error, InputError | LeftOut) else one_line(error)
