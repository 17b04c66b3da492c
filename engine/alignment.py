"""Every model's parameters in the candidate's shape: what a merge may take for granted of its sources.

The candidate has the base's architecture. Where models differ in vocabulary, in ties or in the parameters that they
have, a rule of docs/sources.md says what counts, and a note tells the user that it was applied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evomerge.engine.checkpoint import Checkpoint, first_line
from evomerge.engine.headers import MERGEABLE
from evomerge.engine.layout import Layout, Slot, check_others, held_names, lacks, layout_of
from evomerge.engine.quiet import quiet
from evomerge.engine.readings import Reading, ZeroReading, equal
from evomerge.engine.vocabulary import BASE, UNION, GatheredReading, Run, Vocabulary, choose, vocab_size
from evomerge.errors import InputError, unknown_name

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Alignment", "Reading", "align", "skeleton"]

SAME = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads")
"""Settings that models must share, besides their model_type and the shapes of their parameters."""

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

NO_BEHAVIOUR = {
    *TOKEN_IDS, "unk_token_id", "sep_token_id", "architectures", "dtype", "torch_dtype", "transformers_version",
    "_name_or_path", "vocab_size", "tie_word_embeddings", "use_cache", "initializer_range", "pretraining_tp",
    "id2label", "label2id", "return_dict", "problem_type", "task_specific_params", "summary_first_dropout",
}  # fmt: skip
"""Settings in which models may differ without a note: they do not change what the model computes."""


@dataclass(frozen=True)
class Alignment:
    """A base and its experts, as a merge sees them.

    Attributes:
        config: of the candidate.
        tokenizer: of the candidate.
        layout: of the candidate, on the meta device.
        readings: each source's parameters by slot name, in the candidate's shapes; the base's first, then the
            experts' in order.
        checkpoints: in the same order.
        notes: every rule that had to be applied, one line each, for the user.
    """

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    readings: tuple[dict[str, Reading], ...]
    checkpoints: tuple[Checkpoint, ...]
    notes: tuple[str, ...]


def align(base: Checkpoint, experts: Sequence[Checkpoint], tokenizer: str = BASE) -> Alignment:
    """Bring the parameters of a base and any number of experts into one shape.

    1. Vocabulary. With "base" all vocabularies are the base's. With "union" the tokens that only experts have follow
       the base's; with an expert's name the tokens are that expert's. Rows are found by token string
       (`Vocabulary.runs` says what counts where a model lacks a token).
    2. Ties. The candidate ties head and embedding if they are equal in every model; else it has both, and models
       that tie them give their embedding for the head.
    3. Biases. One that a model lacks counts as zeros. Where an expert's configuration asks for biases and the base's
       does not, the candidate has them.
    4. Other parameters that an expert lacks count as the base's. What the base lacks is refused, and so is a tensor
       that belongs to no parameter, and a shape that differs beyond the vocabulary.
    5. Buffers in files are the base's. Integer ones must be equal.

    Weights are read only where a model holds the head beside the embedding: up to the first difference.

    Args:
        base: gives the architecture, and what the configurations say of it.
        experts: any number.
        tokenizer: "base", "union", or an expert's name.

    Raises:
        InputError: names the model and the first thing that does not fit.
    """
    sources = (base, *experts)
    names = [expert.name for expert in experts]
    if tokenizer not in (BASE, UNION, *names):
        raise unknown_name("tokenizer", tokenizer, (BASE, UNION, *names))
    for source in sources:
        _check_unquantized(source)
    for expert in experts:
        check_config(base, expert)
    vocabulary = choose(base, experts, tokenizer)
    config, notes = _config(base, experts, vocabulary)
    notes = [*(note for source in sources for note in source.notes), *vocabulary.notes, *notes]
    layout, ends, held, tie_notes = _tied(config, sources, vocabulary)
    found, lack_notes = _found(sources, layout, ends, held, vocabulary)
    notes += [*tie_notes, *lack_notes]
    for expert in experts:
        notes += _check_buffers(base, expert, layout)
    readings = _gathered(found, ends, vocabulary)
    return Alignment(config, vocabulary.tokenizer, layout, readings, sources, tuple(dict.fromkeys(notes)))


def check_config(base: Checkpoint, expert: Checkpoint) -> None:
    """Check model_type, the number of decoder layers, the hidden size and the numbers of heads. Raises InputError."""
    ours, theirs = base.pretrained_config, expert.pretrained_config
    if ours.model_type != theirs.model_type:
        raise _differs(expert, "model_type", ours.model_type, theirs.model_type)
    ours, theirs = ours.get_text_config(decoder=True), theirs.get_text_config(decoder=True)
    for key in SAME:
        if getattr(ours, key, None) != getattr(theirs, key, None):
            raise _differs(expert, key, getattr(ours, key, None), getattr(theirs, key, None))


def skeleton(config: PretrainedConfig, checkpoint: Checkpoint) -> PreTrainedModel:
    """A model of that configuration on the meta device: names, shapes and ties, but no weights.

    Args:
        config: of the model.
        checkpoint: whose code it may run, and whom errors name.

    Raises:
        InputError: transformers cannot build it as a causal language model.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet(), torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=checkpoint.ref.trust_remote_code
            )
    except Exception as error:
        raise InputError(f"{checkpoint.folder} must be a causal language model, but: {first_line(error)}") from error
    return model


class Head(Enum):
    """How one model holds its output head."""

    OWN = "a head that differs from the embedding"
    TWICE = "a head that equals the embedding"
    TIED = "one of them, for both"
    MISSING = "no head, though it does not tie them"


class Held(NamedTuple):
    """What one model's files hold of embedding and head, by the names there."""

    head: Head
    embedding_key: str | None
    head_key: str | None

    def keys(self, ends: Ends) -> dict[str, str | None]:
        """The name in the files of each of the two slots; one serves for both where they are tied."""
        if ends.embedding is None or ends.head is None:
            return {}
        shared = self.head is Head.TIED or ends.head is ends.embedding
        head = self.head_key or (self.embedding_key if shared else None)
        return {
            ends.head.name: head,
            ends.embedding.name: self.embedding_key or (self.head_key if shared else None),
        }


class Ends(NamedTuple):
    """The slots whose first axis goes over the vocabulary; `head` is `embedding` where they are tied."""

    embedding: Slot | None
    head: Slot | None
    bias: Slot | None

    @property
    def names(self) -> frozenset[str]:
        """The names of those that there are."""
        return frozenset(slot.name for slot in self if slot is not None)


def _check_unquantized(source: Checkpoint) -> None:
    if source.config.get("quantization_config") is not None:
        raise InputError(f"{source.folder} must hold unquantized weights, but its config has quantization_config")


def _differs(expert: Checkpoint, key: str, ours: object, theirs: object) -> InputError:
    return InputError(
        f"model {expert.name!r} ({expert.folder}) must have the base's {key} {ours!r}, but has {theirs!r}"
    )


def _config(
    base: Checkpoint, experts: Sequence[Checkpoint], vocabulary: Vocabulary
) -> tuple[PretrainedConfig, list[str]]:
    """The candidate's configuration but for its ties: the base's, with the vocabulary and the experts' biases."""
    config = copy.deepcopy(base.pretrained_config)
    _set(config, "vocab_size", vocabulary.size)
    if vocabulary.follows:
        followed = experts[vocabulary.follows - 1].pretrained_config
        for key in TOKEN_IDS:
            _set(config, key, getattr(followed.get_text_config(decoder=True), key, None))
    ours, notes = config.get_text_config(decoder=True), []
    for expert in experts:
        settings = expert.pretrained_config.get_text_config(decoder=True).to_dict()
        for flag in (key for key, value in settings.items() if key.endswith("bias") and value is True):
            if getattr(ours, flag, None) is False:
                setattr(ours, flag, True)
                notes.append(f"{expert.name}: its {flag} is true, so the candidate has these biases")
        own = base.pretrained_config.get_text_config(decoder=True).to_dict()
        differing = [key for key in sorted(own.keys() | settings.keys()) if _matters(key, own, settings)]
        if differing:
            notes.append(f"{expert.name}: differs in {', '.join(differing)}; the candidate has the base's")
    return config, notes


def _set(config: PretrainedConfig, key: str, value: object) -> None:
    text = config.get_text_config(decoder=True)
    for part in (config, text):
        if part is text or hasattr(part, key):
            setattr(part, key, value)


def _matters(key: str, own: dict[str, Any], settings: dict[str, Any]) -> bool:
    training = key.endswith(("dropout", "pdrop", "drop")) or key.startswith("output_")
    return not (training or key in NO_BEHAVIOUR or key.endswith("bias")) and own.get(key) != settings.get(key)


def _tied(
    config: PretrainedConfig, sources: Sequence[Checkpoint], vocabulary: Vocabulary
) -> tuple[Layout, Ends, list[Held], list[str]]:
    """The layout, with head and embedding tied or not, which the configuration then says too."""
    base, asked = sources[0], _ties(config)
    _set(config, "tie_word_embeddings", False)
    layout, ends = _layout(config, base)
    if ends.embedding is None or ends.head is None:
        _set(config, "tie_word_embeddings", asked)
        return layout, ends, [Held(Head.OWN, None, None) for _ in sources], []
    held = [_held(source, ends.embedding, ends.head, vocabulary) for source in sources]
    states = [own.head for own in held]
    if states[0] is Head.MISSING or Head.OWN in states:
        return layout, ends, held, _untied_notes(sources, states) if asked or Head.TIED in states else []
    _set(config, "tie_word_embeddings", True)
    layout, ends = _layout(config, base)
    notes = [] if asked else ["the candidate ties head and embedding, which are equal in every model"]
    return layout, ends, held, notes


def _untied_notes(sources: Sequence[Checkpoint], states: Sequence[Head]) -> list[str]:
    apart = [source.name for source, state in zip(sources, states, strict=True) if state is Head.OWN]
    tied = [source.name for source, state in zip(sources, states, strict=True) if state is Head.TIED]
    given = f"; {', '.join(tied)}: the embedding counts as the head" if tied else ""
    return [f"the candidate has a head apart from its embedding, since {', '.join(apart)} has one{given}"]


def _ties(config: PretrainedConfig) -> bool:
    text = config.get_text_config(decoder=True)
    return bool(getattr(config, "tie_word_embeddings", getattr(text, "tie_word_embeddings", False)))


def _held(source: Checkpoint, embedding: Slot, head: Slot, vocabulary: Vocabulary) -> Held:
    names = [
        held_names(source, slot, _shape(source, slot, Ends(embedding, head, None), vocabulary))
        for slot in (embedding, head)
    ]
    first, second = (held[0] if held else None for held in names)
    if first is not None and second is not None:
        same = equal(source.reading(first), source.reading(second))
        return Held(Head.TWICE if same else Head.OWN, first, second)
    tied = any(names) and _ties(source.pretrained_config)
    return Held(Head.TIED if tied else Head.MISSING, first, second)


def _layout(config: PretrainedConfig, base: Checkpoint) -> tuple[Layout, Ends]:
    model = skeleton(config, base)
    layout = layout_of(model)
    slots = {slot.live.untyped_storage()._cdata: slot for slot in layout.slots}

    def slot(module: Any, name: str) -> Slot | None:
        parameter = getattr(module, name, None)
        return slots.get(parameter.untyped_storage()._cdata) if isinstance(parameter, torch.Tensor) else None

    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return layout, Ends(slot(model.get_input_embeddings(), "weight"), slot(output, "weight"), slot(output, "bias"))


def _shape(source: Checkpoint, slot: Slot, ends: Ends, vocabulary: Vocabulary) -> tuple[int, ...]:
    """What the slot must have in the source's files: the candidate's, but for the number of rows."""
    if vocabulary.source_ids is None or slot.name not in ends.names:
        return tuple(slot.live.shape)
    return (vocab_size(source), *slot.live.shape[1:])


def _found(
    sources: Sequence[Checkpoint], layout: Layout, ends: Ends, held: Sequence[Held], vocabulary: Vocabulary
) -> tuple[list[dict[str, Reading | None]], list[str]]:
    """The sources' readings with rows of their own; None: counts as the base's. And notes on what is lacking."""
    keys = [_keys(source, layout, ends, own, vocabulary) for source, own in zip(sources, held, strict=True)]
    found: list[dict[str, Reading | None]] = []
    notes: list[str] = []
    for source, names in zip(sources, keys, strict=True):
        biases, others = [], []
        readings: dict[str, Reading | None] = {}
        for slot in layout.slots:
            key = names[slot.name]
            if key is not None:
                readings[slot.name] = source.reading(key)
            elif slot.name.endswith(".bias"):
                dtype = _dtype(slot, sources, keys)
                readings[slot.name] = ZeroReading(_shape(source, slot, ends, vocabulary), dtype)
                biases.append(slot.name)
            elif source is sources[0]:
                raise lacks(source, slot)
            else:
                readings[slot.name] = None
                others.append(slot.name)
        check_others(source, layout)
        found.append(readings)
        notes += _lacking(source, biases, "zeros") + _lacking(source, others, "the base's")
    return found, notes


def _keys(source: Checkpoint, layout: Layout, ends: Ends, held: Held, vocabulary: Vocabulary) -> dict[str, str | None]:
    """The name in the source's files of each slot, None where it lacks it."""
    keys = held.keys(ends)
    for slot in layout.slots:
        if slot.name not in keys:
            names = held_names(source, slot, _shape(source, slot, ends, vocabulary))
            keys[slot.name] = names[0] if names else None
    return keys


def _dtype(slot: Slot, sources: Sequence[Checkpoint], keys: Sequence[dict[str, str | None]]) -> torch.dtype:
    """Of the first source that has the parameter."""
    for source, held in zip(sources, keys, strict=True):
        key = held[slot.name]
        if key is not None:
            return source.reading(key).dtype
    return torch.float32


def _lacking(source: Checkpoint, names: Sequence[str], what: str) -> list[str]:
    return [f"{source.name}: lacks {_and_more(names)}; counted as {what}"] if names else []


def _check_buffers(base: Checkpoint, expert: Checkpoint, layout: Layout) -> list[str]:
    """Notes on buffers in files that are not the base's. Raises InputError when they are integers and differ."""
    parameters = {alias for slot in layout.slots for alias in slot.aliases}
    alone, differing = [], []
    for name in sorted(expert.headers.keys() - parameters):
        theirs, ours = expert.headers[name], base.headers.get(name)
        if ours is None:
            alone.append(name)
        elif ours._replace(offset=0) != theirs._replace(offset=0) or base.data(name) != expert.data(name):
            if ours.dtype not in MERGEABLE or theirs.dtype not in MERGEABLE:
                raise InputError(
                    f"model {expert.name!r} ({expert.folder}) must hold the base's {name}, since buffers of "
                    f"{theirs.dtype} are not merged, but holds another"
                )
            differing.append(name)
    notes = []
    if alone:
        notes.append(f"{expert.name}: {_and_more(alone)} left out, buffers that the base's files lack")
    if differing:
        notes.append(f"{expert.name}: differs in the buffer {_and_more(differing)}; the candidate has the base's")
    return notes


def _and_more(names: Sequence[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _gathered(
    found: Sequence[dict[str, Reading | None]], ends: Ends, vocabulary: Vocabulary
) -> tuple[dict[str, Reading], ...]:
    """The sources' readings in the candidate's shape."""
    base = {name: reading for name, reading in found[0].items() if reading is not None}
    aligned = [{name: reading or base[name] for name, reading in readings.items()} for readings in found]
    if vocabulary.source_ids is None:
        return tuple(aligned)
    runs: dict[tuple[int, ...], list[list[Run]]] = {}
    for name in ends.names:
        own = [readings[name] for readings in found]
        rows = tuple(0 if reading is None else reading.shape[0] for reading in own)
        if rows not in runs:
            runs[rows] = vocabulary.runs(rows)
        whole = [readings[name] for readings in aligned]
        gathered = [
            reading
            if _moves_nothing(runs[rows][source], source, rows[source])
            else GatheredReading(runs[rows][source], whole, source, vocabulary.size)
            for source, reading in enumerate(whole)
        ]
        for source, readings in enumerate(aligned):
            readings[name] = gathered[0] if own[source] is None else gathered[source]
    return tuple(aligned)


def _moves_nothing(runs: Iterable[Run], source: int, rows: int) -> bool:
    return list(runs) == [Run(0, rows, (source,), (0,))]
