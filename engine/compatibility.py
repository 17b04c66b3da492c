"""Whether experts can be merged with a base: from configurations, headers and tokenizers, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.engine.alignment import align
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.recipe import ModelRef


def check_compatible(base: ModelRef, experts: Sequence[ModelRef], tokenizer: str = "base") -> tuple[str, ...]:
    """Check that all experts can be brought into the candidate's shape, by the rules of `align`.

    Weights are read only where a model stores the head beside the embedding.

    Args:
        base: of the merge.
        experts: of the merge.
        tokenizer: "base", "union", or an expert's name.

    Returns:
        The rules that have to be applied, one line each.

    Raises:
        InputError: names the model and the first thing that does not fit.
    """
    return align(open_checkpoint(base), [open_checkpoint(expert) for expert in experts], tokenizer).notes
