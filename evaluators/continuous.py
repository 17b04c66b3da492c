"""Generation through transformers' continuous batching: a row that ends makes room for the next prompt at once.

Meant for CUDA. Rows end at an end token or the most tokens; stop strings are cut after, so tasks whose answers end at a
stop string long before their most tokens are faster in `generation`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.instance import Instance
from transformers import ContinuousBatchingConfig, GenerationConfig

from evomerge.evaluators import generation
from evomerge.evaluators.batches import BatchLimit
from evomerge.evaluators.coverage import end_tokens, plain_model
from evomerge.evaluators.stops import STRANGE, Stops

if TYPE_CHECKING:
    from evomerge.evaluators.forward import Forward
    from evomerge.evaluators.prefix import Root
    from evomerge.evaluators.wrapper import LiveModel

PAGE = 16  # positions in a page of keys and values
STEP = 2048  # tokens in one forward pass at most, as long as each row gets one

log = logging.getLogger(__name__)


def generate(
    forward: Forward, live: LiveModel, requests: Sequence[Instance], limit: BatchLimit, root: Root | None = None
) -> list[str]:
    """The answers to `requests`, in their order, as `generation.generate` gives them.

    Nothing is kept from one call to the next: a manager that outlives a change of weights answers with keys and values
    of the old ones (transformers 5.23). What continuous batching does not cover or fails at is left to
    `generation.generate`, the latter with a warning.

    Args:
        forward: the model, in evaluation mode.
        live: lm-eval's view of the same model; says how prompts are tokenized and cut.
        requests: of the kind `generate_until`, with any mix of settings.
        limit: of the rows that are generated at a time.
        root: used by what is left to `generation.generate`; prefixes are shared in any case.

    Raises:
        CandidateError: one request alone does not fit into memory.
        InputError: as in `generation.generate`.
    """
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(place)
    answers: dict[int, str] = {}
    for places in groups.values():
        group = [requests[place] for place in places]
        texts = _group(forward, live, group, limit) or generation.generate(forward, live, group, limit, root)
        answers.update(zip(places, texts, strict=True))
    return [answers[place] for place in range(len(requests))]


def _group(forward: Forward, live: LiveModel, requests: Sequence[Instance], limit: BatchLimit) -> list[str] | None:
    """Answers to requests of one kind; None: they have to be generated otherwise."""
    plan = generation.plan_of(live, requests[0].args[1])
    if plan is None or not plain_model(forward.model):
        return None
    prompts = generation.encode(live, plan, [request.args[0] for request in requests])
    if not all(prompts):
        return None
    rows = _run(forward.model, prompts, plan.most, limit.size)
    if rows is None:
        return None
    stops = Stops(live.tokenizer, plan.until, end_tokens(forward.model), generation.vocabulary(forward))
    strange = {token for token, kind in enumerate(stops.kinds(torch.device("cpu")).tolist()) if kind == STRANGE}
    if any(_is_strange(row, strange, stops) for row in rows):
        return None
    return [generation.text_of(live, plan, row) for row in rows]


def _is_strange(row: list[int], strange: set[int], stops: Stops) -> bool:
    """Whether a token that lm-eval treats by what else is in the batch comes before the row's stop."""
    first = next((place for place, token in enumerate(row) if token in strange), None)
    return first is not None and not stops.stopped(row[:first])


def _run(model: Any, prompts: Sequence[list[int]], most: int, size: int) -> list[list[int]] | None:
    """The tokens after each prompt, 1 to `most`; None: continuous batching failed."""
    attention = model.config._attn_implementation
    ends = list(end_tokens(model))
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=most, eos_token_id=ends or -1, pad_token_id=0
    )
    try:
        outputs = model.generate_batch(
            prompts, generation_config=settings, continuous_batching_config=_sizes(prompts, most, size)
        )
        rows = list(outputs.values())
        failed = len(prompts) - len(rows) + sum(row.error is not None for row in rows)
        reason = next((row.error for row in rows if row.error), "no answer")
    except Exception as error:
        rows, failed, reason = [], len(prompts), f"{type(error).__name__}: {error}"
    finally:
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
    if failed:
        log.warning(
            "continuous batching failed on %d of %d prompts (%s): batched instead", failed, len(prompts), reason
        )
        return None
    return [row.generated_tokens for row in rows]


def _sizes(prompts: Sequence[list[int]], most: int, size: int) -> ContinuousBatchingConfig:
    """Room for `size` of the longest rows, and no more: by default most of the free memory is taken and filled."""
    rows = min(size, len(prompts))
    pages = math.ceil((max(map(len, prompts)) + most) / PAGE) + 1
    tokens = max(rows, min(STEP, sum(map(len, prompts))))
    return ContinuousBatchingConfig(
        page_size=PAGE, num_blocks=rows * pages, max_batch_tokens=tokens, max_requests_per_batch=rows
    )
