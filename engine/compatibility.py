"""Whether experts can be merged with a base: from configurations, headers and tokenizers, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.engine.checkpoint import TOKENIZER_FILES, Checkpoint, open_checkpoint
from evomerge.engine.layout import layout_of, resolve
from evomerge.engine.model import skeleton
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError


def check_compatible(base: ModelRef, experts: Sequence[ModelRef]) -> None:
    """Check that all experts have the base's architecture, parameters and vocabulary.

    Weights are read only where an expert stores apart what the base ties: they must be equal.

    Raises:
        InputError: names the model and the first thing that differs.
    """
    check_checkpoints(open_checkpoint(base), [open_checkpoint(expert) for expert in experts])


def check_checkpoints(base: Checkpoint, experts: Sequence[Checkpoint]) -> None:
    """As `check_compatible`, for checkpoints that are open."""
    for expert in experts:
        check_config(base, expert)
    layout = layout_of(skeleton(base))
    for checkpoint in (base, *experts):
        resolve(checkpoint, layout)
    for expert in experts:
        check_tokenizer(base, expert)


def check_config(base: Checkpoint, expert: Checkpoint) -> None:
    """Check model_type, the number of decoder layers, and the hidden and vocabulary sizes. Raises InputError."""
    ours, theirs = base.pretrained_config, expert.pretrained_config
    if ours.model_type != theirs.model_type:
        raise _differs(expert, "model_type", ours.model_type, theirs.model_type)
    ours, theirs = ours.get_text_config(decoder=True), theirs.get_text_config(decoder=True)
    for key in ("num_hidden_layers", "hidden_size", "vocab_size"):
        if getattr(ours, key, None) != getattr(theirs, key, None):
            raise _differs(expert, key, getattr(ours, key, None), getattr(theirs, key, None))


def check_tokenizer(base: Checkpoint, expert: Checkpoint) -> None:
    """Check that each token has the same id in both vocabularies.

    An expert without tokenizer files passes: the configurations' vocabulary sizes are equal.

    Raises:
        InputError: names the first token, by the base's ids, that differs.
    """
    if expert.folder == base.folder or not expert.has_tokenizer or not base.has_tokenizer or _same_files(base, expert):
        return
    ours, theirs = base.tokenizer().get_vocab(), expert.tokenizer().get_vocab()
    if ours == theirs:
        return
    tokens = sorted(ours.keys() | theirs.keys(), key=lambda token: (ours.get(token, len(ours)), token))
    token = next(token for token in tokens if ours.get(token) != theirs.get(token))
    raise InputError(
        f"model {expert.name!r} ({expert.folder}) must have the base's vocabulary, but token {token!r} has id "
        f"{theirs.get(token, 'none')}, not {ours.get(token, 'none')}"
    )


def _same_files(base: Checkpoint, expert: Checkpoint) -> bool:
    names = [*TOKENIZER_FILES, "added_tokens.json", "special_tokens_map.json", "merges.txt"]
    pairs = [(base.folder / name, expert.folder / name) for name in names]
    return all(
        left.is_file() == right.is_file() and (not left.is_file() or left.read_bytes() == right.read_bytes())
        for left, right in pairs
    )


def _differs(expert: Checkpoint, key: str, ours: object, theirs: object) -> InputError:
    return InputError(
        f"model {expert.name!r} ({expert.folder}) must have the base's {key} {ours!r}, but has {theirs!r}"
    )
