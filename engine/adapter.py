"""LoRA adapters in peft's format, applied to a checkpoint's weights when they are read."""

from __future__ import annotations

import math
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.engine.checkpoint import PICKLES, Checkpoint
from evomerge.engine.headers import MERGEABLE, TensorHeader, read_header
from evomerge.engine.patterns import compiled
from evomerge.engine.places import check_links
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.plain import read_json

if TYPE_CHECKING:
    from evomerge.engine.readings import Reading

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
UNDER_LORA = ".base_layer."  # peft stores an embedding that has a low-rank term whole, too
COMMIT = re.compile(r"[0-9a-f]{40}")  # as the hub's cache calls its folders
FACTOR = re.compile(r"(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<side>[AB])(\.weight)?")

MOST_ALPHA = 1e9

UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
"""Settings of peft's LoRA that change more than a low-rank term of a weight."""

PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the model's own weights as they are."""


class LowRank(NamedTuple):
    """The term scale * B A of one weight.

    Attributes:
        a, b: names in the adapter's file; A is [r, in], B is [out, r].
        scale: alpha / r, or alpha / sqrt(r) for rsLoRA.
        transpose: whether the weight is stored as [in, out].
    """

    a: str
    b: str
    scale: float
    transpose: bool


class AdaptedCheckpoint(Checkpoint):
    """A checkpoint with a LoRA adapter: W + scale * B A in float32, and the modules that the adapter holds whole.

    An adapter may be applied to another model than the one it was trained on, if it fits; a note says so when the
    last parts of their names differ.

    Args:
        ref: the model with its adapter.
        folder: the model's.
        adapter: the adapter's.
        notes: as `Checkpoint`.

    Raises:
        InputError: as `Checkpoint`; or the adapter is of a kind not supported, or does not fit the model.
    """

    def __init__(self, ref: ModelRef, folder: Path, adapter: Path, notes: tuple[str, ...] = ()) -> None:
        super().__init__(ref, folder, notes)
        self.adapter = adapter
        check_links(adapter)
        self._settings = _read_settings(adapter)
        self.notes += _foreign(ref, self._settings.get("base_model_name_or_path"))
        self._path = _weights_path(adapter)
        self._factors = read_header(self._path)
        self._low_rank: dict[str, LowRank] = {}
        self._whole: dict[str, str] = {}
        for key in self._factors:
            self._add(key)
        self._own = dict(self.headers)
        self.headers |= {name: self._factors[key] for name, key in self._whole.items()}
        self.headers |= {name: self.headers[name]._replace(dtype="F32") for name in self._low_rank}

    def reading(self, name: str) -> Reading:
        """As `Checkpoint.reading`; float32 where the adapter has a low-rank term, computed as it is read."""
        if name in self._whole:
            weight = self._factor(self._whole[name])
        elif name in self._low_rank:
            weight = self._stored(self._shards[name], self._own[name])
        else:
            return super().reading(name)
        term = self._low_rank.get(name)
        if term is None:
            return weight
        from evomerge.engine.low_rank import LowRankReading

        return LowRankReading(weight, self._factor(term.a), self._factor(term.b), term.scale, term.transpose)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The model's weight files, and the adapter's weights and settings."""
        return (*super().weight_files, self._path, self.adapter / CONFIG)

    def _factor(self, key: str) -> Reading:
        return self._stored(self._path, self._factors[key])

    def _add(self, key: str) -> None:
        match = FACTOR.fullmatch(key.removeprefix(PREFIX))
        if self._factors[key].dtype not in MERGEABLE or not key.startswith(PREFIX):
            raise InputError(f"{self._path} must hold {PREFIX}* in {', '.join(sorted(MERGEABLE))}, but holds {key}")
        if match is None:
            self._add_whole(key)
        elif match["side"] == "A":
            self._add_low_rank(key, match["module"], embedding=match["kind"] == "lora_embedding")
        elif _other_side(key) not in self._factors:
            raise InputError(f"{self._path} must hold both factors of a term, but lacks {_other_side(key)}")

    def _add_whole(self, key: str) -> None:
        path = key.removeprefix(PREFIX)
        name, shape = self._target(path.replace(UNDER_LORA, ".")), self._factors[key].shape
        if shape != self.headers[name].shape:
            raise self._misfit(key, name)
        config = self.pretrained_config.get_text_config(decoder=True)
        if UNDER_LORA not in path and config.tie_word_embeddings and shape[:1] == (config.vocab_size,):
            raise InputError(f"{self._path} holds {key} for itself, but the model ties it; train both or neither")
        self._whole[name] = key

    def _add_low_rank(self, key: str, module: str, *, embedding: bool) -> None:
        a, b = self._factors[key].shape, self._factors.get(_other_side(key), TensorHeader((), "", 0)).shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise InputError(f"{self._path} must hold A [r, in] and B [out, r] of {module}, but has {a} and {b}")
        name = self._target(f"{module}.weight")
        transpose = embedding or bool(self._settings.get("fan_in_fan_out"))
        if self.headers[name].shape != ((a[1], b[0]) if transpose else (b[0], a[1])):
            raise self._misfit(key, name)
        if self.headers[name].dtype not in MERGEABLE:
            raise InputError(f"{self.folder} must hold {name} unquantized, but has {self.headers[name].dtype}")
        self._low_rank[name] = LowRank(key, _other_side(key), self._scale(module, a[0]), transpose)

    def _scale(self, module: str, rank: int) -> float:
        expected = self._setting("rank_pattern", module, "r")
        if rank < 1 or rank != expected:
            raise InputError(
                f"{self.adapter / CONFIG} gives {module} the rank {expected!r:.100}, but {WEIGHTS} has {rank}"
            )
        alpha = self._setting("alpha_pattern", module, "lora_alpha")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < MOST_ALPHA:
            raise InputError(f"{self.adapter / CONFIG} must give lora_alpha, but gives {alpha!r:.100}")
        return float(alpha) / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)

    def _setting(self, patterns: str, module: str, default: str) -> Any:
        """The value of the first pattern that matches the end of the module's path, as peft reads them."""
        given = self._settings.get(patterns) or {}
        if not isinstance(given, dict):
            raise InputError(f"{self.adapter / CONFIG}: {patterns} must be a mapping, but is {given!r:.100}")
        for pattern, value in given.items():
            try:
                if compiled(rf"^(?:.*\.)?(?:{pattern})$").match(module):
                    return value
            except re.error as error:
                raise InputError(
                    f"{self.adapter / CONFIG}: {patterns} must have regular expressions, but has {pattern!r:.100}: "
                    f"{error}"
                ) from None
        return self._settings.get(default)

    def _target(self, name: str) -> str:
        """The model's tensor of that name, with or without the prefix that the files leave out."""
        for candidate in (name, name.partition(".")[2]):
            if candidate in self.headers:
                return candidate
        longer = self._by_end.get(name, ())
        if len(longer) == 1:
            return longer[0]
        raise InputError(f"{self._path} has a term for {name}, but {self.folder} holds no such parameter")

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """The model's tensors by each end of their names that begins behind a dot."""
        found: dict[str, list[str]] = {}
        for held in self.headers:
            end = held.partition(".")[2]
            while end:
                found.setdefault(end, []).append(held)
                end = end.partition(".")[2]
        return found

    def _misfit(self, key: str, name: str) -> InputError:
        return InputError(
            f"{self._path} must fit the model, but {key} {list(self._factors[key].shape)} does not fit "
            f"{name} {list(self.headers[name].shape)}"
        )


def _foreign(ref: ModelRef, trained_on: Any) -> tuple[str, ...]:
    """A note when the adapter's configuration names another model than the one it is applied to."""
    names = [Path(source).name for source in (trained_on, ref.model) if isinstance(source, str)]
    if len(names) < 2 or not all(names) or names[0].casefold() == names[1].casefold() or COMMIT.fullmatch(names[1]):
        return ()
    return (
        f"{ref.name}: the adapter was trained on {trained_on!r:.300} and is applied to {ref.model!r}, which it fits",
    )


def _read_settings(adapter: Path) -> dict[str, Any]:
    path = adapter / CONFIG
    settings = read_json(path, "an adapter's configuration")
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else None
        raise InputError(f"{path} must have the peft_type LORA, but has {kind!r:.100}")
    for name in UNSUPPORTED:
        if settings.get(name):
            raise InputError(f"{path}: adapters with {name} are not supported; merge it into its model with peft first")
    if settings.get("bias", "none") != "none":
        raise InputError(f"{path}: adapters must have the bias 'none', but this one has {settings['bias']!r:.100}")
    if settings.get("init_lora_weights") not in PLAIN_STARTS:
        raise InputError(
            f"{path}: init_lora_weights {settings['init_lora_weights']!r:.100} changes the model's own weights and is "
            f"not supported; merge it into its model with peft first"
        )
    return settings


def _weights_path(adapter: Path) -> Path:
    if (adapter / WEIGHTS).is_file():
        return adapter / WEIGHTS
    pickles = sorted(path.name for pattern in PICKLES for path in adapter.glob(pattern))
    refused = f"; pickles such as {pickles[0]} can run code and are refused" if pickles else ", but does not"
    raise InputError(f"{adapter} must hold {WEIGHTS}{refused}")


def _other_side(key: str) -> str:
    head, side, tail = re.fullmatch(r"(.+_)([AB])((?:\.weight)?)", key).groups()  # type: ignore[union-attr]
    return f"{head}{'B' if side == 'A' else 'A'}{tail}"
