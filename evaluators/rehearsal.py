"""A rehearsal of the greedy loop beside transformers' own, once for each model, before its answers are believed.

Compared are logits after the same tokens, not the tokens: two ways to the same logits differ by rounding, and in
bfloat16 that is enough to turn a near tie. A model that the loop does not suit is off by as much as logits vary.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from evomerge.evaluators.coverage import plain_model, slides
from evomerge.evaluators.greedy import Batch
from evomerge.shortage import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evomerge.evaluators.forward import Forward
    from evomerge.evaluators.prefix import Root

STEPS = 6  # tokens generated; after half of them the longer row leaves
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # as a share of the logits' spread
ROUGH = 0.1  # in half precision

log = logging.getLogger(__name__)

_verdicts: weakref.WeakKeyDictionary[PreTrainedModel, dict[bool, bool]] = weakref.WeakKeyDictionary()


def suits(forward: Forward, prompt: Sequence[int], root: Root | None = None) -> bool:
    """Whether the greedy loop gives what transformers' `generate` gives; found out once for each model.

    Args:
        forward: the model.
        prompt: token ids that begin with the root's and have more.
        root: whether with shared beginnings is found out apart.
    """
    verdicts = _verdicts.setdefault(forward.model, {})
    with_root = root is not None
    if with_root not in verdicts:
        if not plain_model(forward.model) or (with_root and slides(forward.model)):
            verdicts[with_root] = False
        else:
            distance = _distance(forward, prompt, root)
            if math.isnan(distance):
                return True  # the candidate is beyond use, whoever generates; the next one will tell
            verdicts[with_root] = distance <= TOLERANCE.get(forward.model.dtype, ROUGH)
            if not verdicts[with_root]:
                log.warning(
                    "%s%s does not suit early stops (logits are off by %.2g of their spread): "
                    "lm-eval generates in full batches instead",
                    type(forward.model).__name__,
                    " with shared prefixes" if with_root else "",
                    distance,
                )
    return verdicts[with_root]


def _distance(forward: Forward, prompt: Sequence[int], root: Root | None) -> float:
    """How far logits are from transformers' own: the root mean square over the vocabulary, in its standard deviations.

    That of the worst step and row; a maximum over many tokens would grow with the vocabulary. Infinite where the
    loop fails and transformers does not.
    """
    head = len(root.ids) if root else 0
    rows = [list(prompt), [*prompt[:head], *prompt[head + (len(prompt) - head) // 2 :]]]
    tokens, wanted = _reference(forward.model, rows)
    try:
        return _followed(Batch(forward, rows, STEPS, root), tokens, wanted)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.debug("the greedy loop fails on %s", type(forward.model).__name__, exc_info=True)
        return math.inf


def _followed(batch: Batch, tokens: torch.Tensor, wanted: torch.Tensor) -> float:
    """The distance along the reference's tokens [2, STEPS], from its logits [2, STEPS, V]."""
    worst = 0.0
    for step in range(STEPS):
        if step == STEPS // 2:
            batch.keep([1])
        places = [0, 1] if len(batch) == 2 else [1]
        logits, target = batch.logits(), wanted[places, step]
        off = (logits - target).square().mean(-1).sqrt() / target.std(-1).clamp(min=1e-6)
        worst = max(worst, float(off.max())) if not off.isnan().any() else math.nan
        if math.isnan(worst):
            return worst
        batch.append(tokens[places, step])
    return worst


def _reference(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [2, STEPS] and float32 logits [2, STEPS, V] of transformers' `generate`; no token ends a row."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    output = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        max_length=width + STEPS,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=model.config.get_text_config(decoder=True).vocab_size,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return output.sequences[:, width:], torch.stack(output.logits, dim=1)
