"""How much of one another's work a model's rows can be given, found out by trying.

Padding on the left, padding between a root and a row, and keys and values that rows share are right for most causal
models and wrong for some (a recurrent state, positions that count padding, attention that ignores the mask). Before
any of it is trusted with a kind of model, rows are run both ways, once a process.
"""

from __future__ import annotations

import json
import logging
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evomerge.evaluators.batches import BatchLimit
from evomerge.evaluators.encode import Encoded
from evomerge.evaluators.forward import Forward, Output, PlainForward
from evomerge.evaluators.loglikelihood import Plan, Rows
from evomerge.evaluators.prefix import Root, run_root
from evomerge.shortage import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SCORED = 16  # tokens of a row that are compared
LONGEST = 1024  # tokens of a row that is compared, without the root's ...
LEAST = 12  # tokens that there have to be room for behind the root
PADDED = 64  # ... and the fewest of the row that the others are padded to
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-4}  # relative
NOISE = 3.0  # in other types: differences up to so many times those of two runs that should be equal ...
LONGER = 5  # tokens behind a row to measure them by
FLOOR = 0.08  # ... and so many nats a token

log = logging.getLogger(__name__)


class Sharing(NamedTuple):
    """What rows may have in common.

    Attributes:
        root: keys and values of a prefix, with padding behind it.
        stems: keys and values of a document's common tokens.
        padding: a batch, padded on the left. Without it lm-eval's own loop is all that is left.
    """

    root: bool
    stems: bool
    padding: bool = True


EVERYTHING = Sharing(root=True, stems=True)
LADDER = (EVERYTHING, Sharing(root=False, stems=True), Sharing(root=False, stems=False))
NOTHING = Sharing(root=False, stems=False, padding=False)

_SAYS = {
    LADDER[1]: "prefixes common to all documents are not shared",
    LADDER[2]: "prefixes are not shared",
    NOTHING: "its rows are scored as lm-eval does",
}

_found: dict[tuple[str, Sharing], bool] = {}


def sharing_of(forward: Forward, rows: Sequence[Encoded], root: tuple[int, ...], longest: int) -> Sharing:
    """The most that the model's rows can share without their log-likelihoods changing beyond rounding.

    Whatever was found out is kept for all models of the same class, configuration, type and kind of device.

    Args:
        forward: the model, with weights that give numbers.
        rows: some of those that are to be scored; of them a few are tried.
        root: what these rows begin with; () where there is nothing.
        longest: the most tokens that the model reads.
    """
    kind = _kind(forward.model)
    for sharing in LADDER[0 if root else 1 :]:
        most = min(longest, reach(forward.model.config, sharing))
        if most < len(root) + LEAST:
            continue
        if (kind, sharing) not in _found:
            samples = _samples(rows, len(root), int(most))
            agrees = _agrees(forward, samples, root if sharing.root else (), sharing)
            if agrees is None:
                return sharing
            _found[kind, sharing] = agrees
            if not agrees:
                name = type(forward.model).__name__
                log.warning("%s gives other log-likelihoods that way: %s", name, _SAYS[_next(sharing)])
        if _found[kind, sharing]:
            return sharing
    return NOTHING


def reach(config: PreTrainedConfig, sharing: Sharing) -> float:
    """How many columns a batch may have with this sharing; infinite for most models.

    A sliding window counts columns: with padding behind the root, some of it would be lost. Rotary frequencies that
    depend on the length of what is run would differ between the rows of a batch, and between a stem and its rests.
    """
    text = config.get_text_config(decoder=True)
    limits = [_rope_reach(text)]
    if sharing.root:
        limits += [getattr(text, key, None) or math.inf for key in ("sliding_window", "attention_chunk_size")]
    return min(limits)


def _rope_reach(config: PreTrainedConfig) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    of_layers = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    if not any(rope.get("rope_type") in {"dynamic", "longrope"} for rope in of_layers):
        return math.inf
    known = [rope.get("original_max_position_embeddings") for rope in of_layers]
    known.append(getattr(config, "original_max_position_embeddings", None))
    return min([float(length) for length in known if length] or [float(config.max_position_embeddings)])


def _kind(model: PreTrainedModel) -> str:
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    return f"{type(model).__module__}.{type(model).__qualname__} {model.dtype} {model.device.type} {config}"


def _next(sharing: Sharing) -> Sharing:
    return (*LADDER, NOTHING)[LADDER.index(sharing) + 1]


def _agrees(
    forward: Forward, documents: Iterable[Sequence[Rows]], root: tuple[int, ...], sharing: Sharing
) -> bool | None:
    """Whether rows run together have the log-likelihoods they have alone; None: these are not numbers."""
    trial = _Trial(forward, list(documents))
    alone = trial.run(PlainForward(forward.model), 1, least=math.inf)
    if not np.isfinite(alone).all():
        return None
    try:
        shared = run_root(forward, root) if root else None
        together = trial.run(forward, 64, least=0.0 if sharing.stems else math.inf, root=shared)
    except Exception as error:  # whatever a model does that is asked for what it has not
        if is_out_of_memory(error):
            raise
        log.debug("rows cannot be run together: %s", error)
        return False
    difference = np.abs(together - alone)
    rounding = ROUNDING.get(forward.model.dtype)
    if rounding is not None:
        return bool((difference <= rounding * np.maximum(1.0, np.abs(alone))).all())
    off = float((difference / trial.scored).mean())
    if off <= FLOOR:
        return True
    noise = np.abs(trial.run(_LongerForward(forward.model), 1, least=math.inf) - alone)
    return off <= FLOOR + NOISE * float((noise / trial.scored).mean())


class _Trial:
    """Some documents, to be scored in several ways."""

    def __init__(self, forward: Forward, documents: Sequence[Sequence[Rows]]) -> None:
        self._forward = forward
        self._documents = documents
        self.scored = np.array([len(row.ids) - row.start for requests in documents for (row,) in requests])

    def run(self, forward: Forward, size: int, *, least: float, root: Root | None = None) -> npt.NDArray[np.float64]:
        """The log-likelihoods of all rows."""
        plan = Plan(
            self._documents,
            vocabulary=forward.vocabulary,
            device=forward.device,
            root=root.ids if root else (),
            least=least,
            cached=least < math.inf,
        )
        return np.array([answer.loglikelihood for answer in plan.run(forward, BatchLimit(size), root)])


class _LongerForward(PlainForward):
    """Rows that go on behind what is wanted of them, which changes nothing but the order of sums."""

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, *args: Any, keep: int = 1, **kwargs: Any) -> Output:
        """One forward pass."""
        behind = ids[:, :1].expand(-1, LONGER)
        longer = super().__call__(torch.cat([ids, behind], dim=1), mask, keep=keep + LONGER)
        return Output(longer.logits[:, :keep], None)


def _samples(rows: Sequence[Encoded], root: int, longest: int) -> Iterator[list[Rows]]:
    """Two documents of two rows each, of lengths far apart, so that one is mostly padding."""
    long, short = (pick(rows, key=lambda row: len(row.ids)) for pick in (max, min))
    most = max(2, min(LONGEST, longest - root - 2 - LONGER))
    body = long.read[root:]  # an end that is a set of tokens cannot be read
    body = body * math.ceil(PADDED / len(body)) if len(body) < PADDED else body
    yield _document(long.ids[:root], body[:most])
    body = short.read[root:][:most]
    yield _document(short.ids[:root], body[len(body) // 2 :])


def _document(begin: array[int], body: array[int]) -> list[Rows]:
    """A row's last tokens scored as they are, and in reverse order with one more."""
    if len(body) < 2:
        body = body + body + body
    start = max(len(body) // 2, len(body) - SCORED)
    ends = body[start:], array("i", [*reversed(body[start:]), body[0]])
    return [(Encoded(begin + body[:start] + end, len(begin) + start),) for end in ends]
