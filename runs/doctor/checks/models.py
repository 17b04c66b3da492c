"""Whether the models can be read, and what their files hold. From headers and configurations alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from evomerge.errors import InputError
from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, LeftOut, error, ok, skipped, warning
from evomerge.runs.doctor.sources import Source
from evomerge.runs.doctor.subject import Subject
from evomerge.sizes import readable

if TYPE_CHECKING:
    from evomerge.engine.checkpoint import Checkpoint
    from evomerge.engine.headers import TensorHeader

MANY = 4
"""Experts. Gains grow about as 1 - 1/k: the third adds a sixth, the fifth a twentieth (arXiv:2509.24244)."""

Headers = dict[str, "TensorHeader"]


@check("models", 10)
def models(subject: Subject) -> Iterator[Finding]:
    """Each model's files: there, readable, safetensors, unquantized; an adapter fits its model."""
    for source in subject.sources:
        yield _files(source)
    yield from _twice(subject.sources)


@check("experts", 15)
def experts(subject: Subject) -> Iterator[Finding]:
    """How many experts there are."""
    count = len(subject.config.models.experts)
    if count > MANY:
        yield warning(
            f"{count} experts: gains grow about as 1 - 1/k with the number of experts, and the space with each",
            f"begin with the {MANY} that are best at the tasks; most of the gain comes from the first ones",
        )
    else:
        yield ok(f"{count} expert{'s' * (count != 1)}")


@check("architecture", 20)
def architecture(subject: Subject) -> Iterator[Finding]:
    """Whether the experts have the base's architecture and shapes: everything that differs, model by model."""
    base, *others = subject.sources
    ours = base.checkpoint
    found: list[Finding] = []
    for source in others:
        if isinstance(source.held, InputError | LeftOut):
            yield skipped(f"{source.label}: {_why(source.held)}")
            continue
        found += _settings(source, ours, source.held) or _shapes(source, ours, source.held)
    yield from found
    if not found and all(not isinstance(source.held, InputError | LeftOut) for source in others):
        alignment = subject.fit
        numel = sum(slot.live.numel() for slot in alignment.layout.slots)
        kind = alignment.config.model_type
        yield ok(f"{kind}, {alignment.layout.num_layers} layers, {numel:,} parameters; all experts fit the base")
        for note in alignment.notes:
            yield ok(note)


@check("dtypes", 25)
def dtypes(subject: Subject) -> Iterator[Finding]:
    """Whether the candidate's dtype holds what the sources hold."""
    wanted = subject.config.merge.dtype
    stored: dict[str, list[str]] = {}
    for source in subject.sources:
        if not isinstance(source.held, InputError | LeftOut):
            stored.setdefault(_listed(_dtypes(source.held.headers)), []).append(source.label)
    for kinds, labels in stored.items():
        if wanted == "float16" and kinds != "F16":
            yield warning(
                f"{', '.join(labels)}: stored in {kinds}, and the candidate is float16, which ends at 65,504",
                "use `merge.dtype: bfloat16`, unless the device lacks it",
            )
        else:
            yield ok(f"{', '.join(labels)}: {kinds} into {wanted}, computed in float32")


@check("tokenizers", 30)
def tokenizers(subject: Subject) -> Iterator[Finding]:
    """Whether the experts have the base's tokens and chat template."""
    base, *others = subject.sources
    ours = base.checkpoint
    ids, template = ours.token_ids, ours.tokenizer().chat_template
    same = True
    for source in others:
        if isinstance(source.held, InputError | LeftOut):
            yield skipped(f"{source.label}: {_why(source.held)}")
            continue
        if not source.held.has_tokenizer:
            yield ok(f"{source.label} has no tokenizer and counts as having the base's")
            continue
        for finding in _tokens(source, ids, source.held.token_ids, subject.config.merge.tokenizer):
            same = False
            yield finding
        if source.held.tokenizer().chat_template != template and subject.config.evaluate.apply_chat_template:
            same = False
            yield warning(
                f"{source.label} has another chat template than the base, and prompts are written with one",
                "`merge.tokenizer` decides whose; an expert scored with another's template loses some of its skill",
            )
    if same:
        yield ok(f"{len(ids):,} tokens, the same in all models")


def _files(source: Source) -> Finding:
    if isinstance(source.held, LeftOut):
        return skipped(f"{source.label}: {source.held}")
    if isinstance(source.held, InputError):
        return error(f"{source.label}: {source.held}")
    held = source.held
    if held.config.get("quantization_config") is not None:
        return error(
            f"{source.label}: {held.folder} must hold unquantized weights, but its config has quantization_config",
            "take the model that it was quantized from",
        )
    size = sum(path.stat().st_size for path in held.weight_files)
    numel = sum(math.prod(header.shape) for header in held.headers.values())
    files = len(held.weight_files)
    return ok(f"{source.label}: {numel:,} weights in {files} file{'s' * (files != 1)}, {readable(size)}")


def _why(held: InputError | LeftOut) -> str:
    return str(held) if isinstance(held, LeftOut) else "its files have an error"


def _twice(sources: Iterable[Source]) -> Iterator[Finding]:
    places: dict[tuple[str, str | None, str | None], str] = {}
    for source in sources:
        place = (source.ref.model, source.ref.revision, source.ref.adapter)
        if place in places:
            yield warning(f"{source.label} is the same model as {places[place]}", "leave one of them out")
        places.setdefault(place, source.label)


def _settings(source: Source, ours: Checkpoint, theirs: Checkpoint) -> list[Finding]:
    """Every setting that must be the base's and is not."""
    from evomerge.engine.alignment import SAME

    pairs = [("model_type", ours.pretrained_config, theirs.pretrained_config)]
    text = ours.pretrained_config.get_text_config(decoder=True), theirs.pretrained_config.get_text_config(decoder=True)
    pairs += [(key, *text) for key in SAME]
    values = {key: (getattr(one, key, None), getattr(other, key, None)) for key, one, other in pairs}
    return [
        error(
            f"{source.label} must have the base's {key} {own!r}, but has {other!r}",
            "weights of different architectures cannot be averaged; take experts that were trained from the base",
        )
        for key, (own, other) in values.items()
        if own != other
    ]


def _shapes(source: Source, ours: Checkpoint, theirs: Checkpoint) -> list[Finding]:
    """What keeps the expert alone from being aligned, with all tensors that have another shape."""
    from evomerge.engine.alignment import align

    differing = [
        f"{name} {list(header.shape)} for {list(ours.headers[name].shape)}"
        for name, header in theirs.headers.items()
        if name in ours.headers and header.shape[1:] != ours.headers[name].shape[1:]
    ]
    if differing:
        shown = "; ".join(differing[:3])
        rest = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        return [error(f"{source.label} must hold tensors in the base's shapes, but has {shown}{rest}")]
    try:
        align(ours, [theirs], "base" if theirs.has_tokenizer and theirs.token_ids == ours.token_ids else "union")
    except InputError as trouble:
        return [error(str(trouble))]
    return []


def _tokens(source: Source, ours: dict[str, int], theirs: dict[str, int], wanted: str) -> Iterator[Finding]:
    if ours == theirs:
        return
    more, fewer = len(theirs.keys() - ours.keys()), len(ours.keys() - theirs.keys())
    moved = sum(ours[token] != number for token, number in theirs.items() if token in ours)
    told = f"{source.label} has {more:,} tokens that the base lacks, lacks {fewer:,}, and {moved:,} have another id"
    if wanted == "base":
        yield error(told, "`merge.tokenizer: union` merges different vocabularies, row by row")
    else:
        yield ok(f"{told}; rows are found by token, as `merge.tokenizer: {wanted}` says")


def _dtypes(headers: Headers) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for header in headers.values():
        counts[header.dtype] += math.prod(header.shape)
    return dict(counts.most_common())


def _listed(kinds: dict[str, int]) -> str:
    total = sum(kinds.values())
    return ", ".join(kind if len(kinds) == 1 else f"{kind} {count / total:.0%}" for kind, count in kinds.items())
