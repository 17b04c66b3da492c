"""What an evaluator is, and the registry of them: a class registered here scores models for searches and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from evomerge.evaluators.config import EvaluateConfig
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
        """What is measured, in the order of the configuration, each with its direction."""

    def documents(self, split: Split) -> tuple[Document, ...]:
        """The documents of a split over all tasks, in the order of `chunks`."""

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        """The same documents in the runs in which candidates are to be scored; the same for every candidate."""

    def fingerprint(self) -> str:
        """A digest of all that scores depend on beside the model: documents, splits, prompts, metrics, batches."""

    def score(self, model: PreTrainedModel, documents: Iterable[Document]) -> list[DocumentScore]:
        """The scores of `documents`, in their order, with the weights that `model` has now.

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
    """The evaluator that `config` names, prepared. Raises InputError for anything the user can get wrong."""
    return EVALUATORS.get(config.evaluator)(config, tokenizer)


def score_split(evaluator: Evaluator, model: PreTrainedModel, split: Split) -> Scores:
    """All scores of a split, chunk by chunk. Raises as `Evaluator.score` does."""
    return Scores(tuple(score for chunk in evaluator.chunks(split) for score in evaluator.score(model, chunk)))
