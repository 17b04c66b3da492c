"""What an evaluator is, and the registry of them: a class registered here scores models for searches and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from evomerge.evaluators.config import EvaluateConfig
from evomerge.evaluators.texts import DocumentText
from evomerge.evaluators.types import Document, DocumentScore, Scores, Split, TaskMetric
from evomerge.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Evaluator(Protocol):
    """Scores models document by document; everything that does not depend on the model is prepared once."""

    def __init__(self, config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare all tasks. Raises InputError for anything the user can get wrong; leaves `tokenizer` as it is."""

    @property
    def tasks(self) -> tuple[TaskMetric, ...]:
        """What is measured, in the order of the configuration, each with its direction.

        Those with weight 0 are measured for a constraint alone and come last.
        """

    @property
    def proxies(self) -> Mapping[str, TaskMetric]:
        """By task, the cheap stand-ins that `score` gives with `proxy`; empty without any."""

    @property
    def needs_reference(self) -> bool:
        """Whether `refer` has to be called before `score`."""

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The documents of a split over all tasks, in the order of `chunks`."""

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        """The same documents in the runs in which candidates are to be scored; the same for every candidate."""

    def rungs(self, split: Split) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        """The same chunks in groups that each bring every task forward; a race looks at a candidate after each."""

    def planned(self, documents: Sequence[Document]) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        """Rungs of chunks for some of the documents, in the order given within each task."""

    def fingerprint(self) -> str:
        """A digest of all that scores depend on beside the model: documents, splits, prompts, metrics, batches."""

    def prompts(self, count: int) -> tuple[str, ...]:
        """A few prompts of each task's documents in `search`, for a quick look at a model; () where it has no text."""

    def text(self, document: Document) -> DocumentText | None:
        """What a document says, for people to read; None where it has no text."""

    def refer(self, model: PreTrainedModel) -> None:
        """Take what is needed of the base, whose weights `model` has now."""

    def score(
        self, model: PreTrainedModel, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        """The scores of `documents`, in their order, with the weights that `model` has now.

        The documents of one call and one task run together; in bfloat16 the makeup of a batch moves scores, so call it
        with the chunks of the plan.

        Args:
            model: a live model.
            documents: from `documents`, `chunks`, `rungs` or `planned`.
            weights: a name for the weights that the model has now. What was computed from weights of the same name,
                such as the keys and values of a shared prefix, may be reused; None: nothing is.
            proxy: score the tasks in `proxies` by their stand-ins instead.

        Raises:
            CandidateError: the model cannot be scored, for instance because its logits are NaN.
            InputError: the configuration does not fit the model.
            ValueError: a document is not one of this evaluator's.
        """


E = TypeVar("E", bound=type[Evaluator])

EVALUATORS: Registry[type[Evaluator]] = Registry("evaluator", "evomerge.evaluators", "evomerge.evaluators")


def evaluator(name: str) -> Callable[[E], E]:
    """Register the decorated class as the evaluator `name`."""

    def register(cls: E) -> E:
        EVALUATORS.add(name, cls)
        return cls

    return register


def make_evaluator(config: EvaluateConfig, tokenizer: PreTrainedTokenizerBase) -> Evaluator:
    """What scores all tasks and constraints of `config`, prepared; several evaluators are put together as one.

    Raises InputError for anything the user can get wrong.
    """
    from evomerge.evaluators.combined import combined  # it needs this module's registry

    return combined(config, tokenizer)


def score_split(evaluator: Evaluator, model: PreTrainedModel, split: Split, weights: str | None = None) -> Scores:
    """All scores of a split, chunk by chunk; `weights` as in `Evaluator.score`. Raises as that does."""
    return Scores(tuple(score for chunk in evaluator.chunks(split) for score in evaluator.score(model, chunk, weights)))
