"""The log-likelihoods that one evaluator asks for: rows and plans are made once, prefixes run once a candidate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from evomerge.evaluators.batches import BatchLimit, in_batches
from evomerge.evaluators.encode import Encoded
from evomerge.evaluators.forward import Forward
from evomerge.evaluators.loglikelihood import Answer, Plan, Rows
from evomerge.evaluators.prefix import Root, common_prefix, run_root
from evomerge.evaluators.sharing import LADDER, NOTHING, Sharing, reach, sharing_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROOT = 16  # the fewest tokens that are worth a pass of their own
PLANS = 1024  # plans that are kept


class TaskRows(NamedTuple):
    """What a task asks of a model.

    Attributes:
        of_document: for each document's key its requests, each as its rows.
        root: the tokens that most rows begin with; () where there are few or none.
        ends: sets of tokens that end an answer; see `Plan`.
        longest: the most tokens that the model reads.
        greedy: whether it matters which tokens are the most likely ones.
    """

    of_document: Mapping[str, Sequence[Rows]]
    root: tuple[int, ...]
    ends: tuple[torch.Tensor, ...]
    longest: int
    greedy: bool = True


def common_root(rows: Iterable[Encoded]) -> tuple[int, ...]:
    """The tokens that all rows begin with, ending before any row's context does; () where they are too few to pay."""
    whole = [row for row in rows if not row.cut]
    if len({row.ids.tobytes() for row in whole}) < 2:
        return ()
    length = min(common_prefix([row.ids for row in whole]), min(row.start for row in whole) - 1)
    return tuple(whole[0].ids[:length]) if length >= ROOT else ()


class Roots:
    """Prefixes' keys and values, kept as long as the weights have the same name."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, ...], Root] = {}
        self._weights: tuple[int, str] | None = None

    def begin(self, model: PreTrainedModel, weights: str | None) -> None:
        """From here on the model has the weights of this name; None: weights unlike any before."""
        named = None if weights is None else (id(model), weights)
        if named is None or named != self._weights:
            self._held.clear()
        self._weights = named

    def end(self) -> None:
        """Let go of what will not be used again."""
        if self._weights is None:
            self._held.clear()

    def of(self, forward: Forward, ids: tuple[int, ...]) -> Root:
        """The prefix with its keys and values. Raises CandidateError if it does not fit into memory."""
        if ids not in self._held:
            (self._held[ids],) = in_batches(lambda _: [run_root(forward, ids)], [ids], BatchLimit(1))
        return self._held[ids]


class Likelihoods:
    """Answers to log-likelihood requests of a causal model.

    Args:
        roots: shared with whatever else uses prefixes.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._plans: OrderedDict[tuple[object, ...], Plan | None] = OrderedDict()

    def answers(
        self, name: str, task: TaskRows, keys: Sequence[str], forward: Forward, limit: BatchLimit
    ) -> list[Answer] | None:
        """The answers to the requests of some documents, in their order; None: the model cannot run rows together.

        Args:
            name: of the task; the same name, keys and kind of model mean the same rows.
            task: its rows.
            keys: the documents'.
            forward: the model, with the weights that `roots` was told of.
            limit: the most rows in a pass.

        Raises:
            CandidateError: one row alone does not fit into memory.
        """
        documents = [task.of_document[key] for key in keys]
        rows = [row for requests in documents for request in requests for row in request]
        if not rows:
            return [Answer(0.0, True) for requests in documents for _ in requests]
        sharing = self._sharing(task, rows, forward)
        if sharing == NOTHING:
            return None
        place = (name, tuple(keys), task.longest, forward.vocabulary, forward.device, sharing)
        plan = _kept(self._plans, place, lambda: _plan(task, documents, forward, sharing))
        if plan is None:
            return None
        return plan.run(forward, limit, self._roots.of(forward, task.root) if plan.rooted else None)

    def _sharing(self, task: TaskRows, rows: Sequence[Encoded], forward: Forward) -> Sharing:
        begin = len(task.root)
        rooted = [row for row in rows if begin and row.start > begin and tuple(row.ids[:begin]) == task.root]
        return sharing_of(forward, rooted or rows, task.root if rooted else (), task.longest)


def alone(task: TaskRows, keys: Sequence[str], forward: Forward) -> list[Answer]:
    """The answers of a model that cannot run rows together: one row at a time."""
    documents = [task.of_document[key] for key in keys]
    return _shared(task, documents, forward, NOTHING).run(forward, BatchLimit(1))


def _plan(task: TaskRows, documents: Sequence[Sequence[Rows]], forward: Forward, sharing: Sharing) -> Plan | None:
    """The plan that shares as much as `sharing` and the batches' width allow; None: they do not allow a batch."""
    for rung in LADDER[LADDER.index(sharing) :]:
        plan = _shared(task, documents, forward, rung)
        if plan.columns <= reach(forward.model.config, rung):
            return plan
    return None


def _shared(task: TaskRows, documents: Sequence[Sequence[Rows]], forward: Forward, sharing: Sharing) -> Plan:
    return Plan(
        documents,
        vocabulary=forward.vocabulary,
        device=forward.device,
        root=task.root if sharing.root else (),
        cached=sharing.stems,
        ends=task.ends,
        greedy=task.greedy,
    )


def _kept(
    plans: OrderedDict[tuple[object, ...], Plan | None], place: tuple[object, ...], make: Callable[[], Plan | None]
) -> Plan | None:
    """The plan of this place, from those used last or made anew."""
    if place not in plans:
        plans[place] = make()
        if len(plans) > PLANS:
            plans.popitem(last=False)
    plans.move_to_end(place)
    return plans[place]
