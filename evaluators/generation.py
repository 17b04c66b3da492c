"""Answers to lm-eval's `generate_until` requests: the texts of HFLM, with rows that leave their batch when they end.

HFLM hands a batch to transformers, which runs it until its slowest row ends and decodes every row at every step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from evomerge.errors import InputError
from evomerge.evaluators.batches import BatchLimit, in_batches
from evomerge.evaluators.coverage import end_tokens, plain_settings
from evomerge.evaluators.greedy import decode
from evomerge.evaluators.rehearsal import suits
from evomerge.evaluators.stops import Stops, settled

if TYPE_CHECKING:
    from evomerge.evaluators.forward import Forward
    from evomerge.evaluators.prefix import Root
    from evomerge.evaluators.wrapper import LiveModel

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """How requests of the same settings are answered: stop strings, and the most tokens of an answer, from 1."""

    until: list[str]
    most: int


@torch.no_grad()
def generate(
    forward: Forward, live: LiveModel, requests: Sequence[Instance], limit: BatchLimit, root: Root | None = None
) -> list[str]:
    """The answers to `requests`, in their order, as `live.generate_until` gives them.

    Equal in float32; in half precision the makeup of a batch moves the logits, and near ties may turn. What the greedy
    loop does not cover (sampling, beams, penalties, models with a state in place of keys and values) is left to
    `live`, in batches of the same size.

    Args:
        forward: the model, in evaluation mode.
        live: lm-eval's view of the same model; says how prompts are tokenized and cut.
        requests: of the kind `generate_until`, with any mix of settings.
        limit: of the rows in a batch; halved where memory runs out.
        root: tokens that prompts begin with, keys and values of which are there; prompts that begin otherwise are
            run in full.

    Raises:
        CandidateError: one request alone does not fit into memory.
        InputError: an answer's length leaves no room for a prompt, or lm-eval has to generate and the tokenizer has
            no end token.
    """
    answers: dict[int, str] = {}
    for places in _groups(live, requests):
        group = [requests[place] for place in places]
        plan = plan_of(live, group[0].args[1])
        run = partial(_harness, live) if plan is None else partial(_greedy, forward, live, plan, root)
        answers.update(zip(places, in_batches(run, group, limit), strict=True))
    return [answers[place] for place in range(len(requests))]


def plan_of(live: LiveModel, settings: dict[str, Any]) -> Plan | None:
    """How requests with these generation settings are answered greedily; None: only lm-eval can.

    Raises:
        InputError: an answer's length leaves no room for a prompt.
    """
    kwargs = normalize_gen_kwargs(settings, live.max_gen_toks)
    most = kwargs["max_gen_toks"]
    if most >= live.max_length:
        raise InputError(f"max_gen_toks must be below the model's {live.max_length} tokens, but got {most}")
    end = live.eot_token_id
    eos = None if end is None else live.tok_decode(end, skip_special_tokens=False)
    until = handle_stop_sequences(kwargs["until"], eos=eos)
    covered = (
        live.backend == "causal"
        and live.think_end_token is None
        and plain_settings(kwargs)
        and all(until)
        and settled(until)
        and (end is None or end in end_tokens(live.model))
        and not live.tok_decode([live.tokenizer.pad_token_id])
    )
    return Plan(until, most) if covered else None


def encode(live: LiveModel, plan: Plan, contexts: Sequence[str]) -> list[list[int]]:
    """The prompts' token ids as HFLM's `tok_batch_encode` has them: cut on the left, one rule for the whole batch."""
    if has_bos_prefix(contexts[0], live.tokenizer.bos_token):
        special = False
    else:
        special = True if live.add_bos_token is None else live.add_bos_token
    room = live.max_length - plan.most
    return [live.tok_encode(context, add_special_tokens=special)[-room:] for context in contexts]


def text_of(live: LiveModel, plan: Plan, tokens: list[int]) -> str:
    """The text of an answer, as HFLM cuts it."""
    text: str = postprocess_generated_text(live.tok_decode(tokens), plan.until, think_end_token=None)
    return text


def _groups(live: LiveModel, requests: Sequence[Instance]) -> list[list[int]]:
    """Places of requests with the same settings, longest first, in HFLM's order."""
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(place)
    for places in groups.values():
        places.sort(key=lambda place: (-len(live.tok_encode(requests[place].args[0])), requests[place].args[0]))
    return list(groups.values())


def _harness(live: LiveModel, requests: Sequence[Instance]) -> list[str]:
    if live.eot_token_id is None:
        raise InputError("tokenizer must have an end token where lm-eval generates, but eos_token is None")
    return list(live.generate_until(list(requests), disable_tqdm=True))


def _greedy(
    forward: Forward, live: LiveModel, plan: Plan, root: Root | None, requests: Sequence[Instance]
) -> list[str]:
    """One batch."""
    prompts = encode(live, plan, [request.args[0] for request in requests])
    if not all(prompts):
        return _harness(live, requests)
    if root is not None and not (_all_begin(prompts, root.ids) and suits(forward, prompts[0], root)):
        root = None
    if root is None and not suits(forward, prompts[0]):
        return _harness(live, requests)
    stops = Stops(live.tokenizer, plan.until, end_tokens(forward.model), vocabulary(forward))
    tokens = decode(forward, prompts, stops, plan.most, root)
    return _harness(live, requests) if tokens is None else [text_of(live, plan, row) for row in tokens]


def _all_begin(prompts: Sequence[list[int]], ids: Sequence[int]) -> bool:
    return all(len(prompt) > len(ids) and prompt[: len(ids)] == list(ids) for prompt in prompts)


def vocabulary(forward: Forward) -> int:
    """V, the number of tokens that the model has logits for."""
    rows: int = forward.model.get_output_embeddings().weight.shape[0]  # type: ignore[no-untyped-call]
    return rows
