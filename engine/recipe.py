"""The recipe of a merge: with its checkpoints, the whole cause of a candidate. No torch here.

A model's parameters fall into groups by layer and by module. Each group carries its own numbers for the
method's parameters; everything else (options, dtype, seed) holds for the whole recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from evomerge.errors import InputError, unknown_name

Dtype = Literal["float32", "bfloat16", "float16"]


class Frozen(BaseModel):
    """Base of the immutable types: unknown keys are errors, values are checked once, at construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


MOST_CHARACTERS = 1_000


def _printable(value: Any) -> Any:
    """Names and paths are shown in messages and given to the system: in one line, and no longer than it takes."""
    if isinstance(value, str) and (not value.isprintable() or len(value) > MOST_CHARACTERS):
        raise ValueError(f"names must be printable and of at most {MOST_CHARACTERS} characters, but got {value!r:.60}")
    return value


Text = Annotated[str, BeforeValidator(_printable)]


class ModelRef(Frozen):
    """Where a model comes from.

    Attributes:
        model: a folder, or a hub id such as `org/name`.
        revision: branch, tag or commit on the hub; ignored for a folder.
        adapter: a LoRA adapter in peft's format (folder or hub id), applied to `model`.
        name: how recipes, tables and dimensions call it; by default the last part of the adapter's or model's path.
        trust_remote_code: run the Python files that come with the model; off unless the user names it.
    """

    model: Text = Field(min_length=1)
    revision: Text | None = None
    adapter: Text | None = None
    name: Text = ""
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"model": value}
        if isinstance(value, dict) and not value.get("name"):
            source = value.get("adapter") or value.get("model")
            if isinstance(source, str):
                value = {**value, "name": Path(source).name or source}
        return value

    def relative_to(self, folder: Path) -> ModelRef:
        """The same reference with paths that exist below `folder` made absolute; hub ids stay as they are."""
        return self.model_copy(
            update={
                "model": _resolve(self.model, folder),
                "adapter": _resolve(self.adapter, folder) if self.adapter else None,
            }
        )


def _resolve(source: str, folder: Path) -> str:
    try:
        path = folder / Path(source).expanduser()
        looks_local = source.startswith((".", "/", "~")) or path.exists()
        return str(path.resolve()) if looks_local else source
    except (OSError, RuntimeError):  # a name too long, nobody's home, links in circles: whoever opens it says so
        return source


def _one_name(value: Any) -> Any:
    return value if not isinstance(value, list) else tuple(value)


Layers = Annotated[Literal["all", "outside"] | tuple[int, int], BeforeValidator(_one_name)]


class Group(Frozen):
    """The parameters that share numbers.

    Attributes:
        layers: `[start, stop)` of decoder layers; "outside" for what lies in no layer (embeddings, final norm,
            head); "all" for both.
        modules: "all", "attention", "mlp", "other" (neither of them), or a regular expression searched in the
            parameter's path inside its layer (outside of layers: in its whole name).
        parameters: for each of the method's parameters a number, or a number for each expert by name. Parameters
            that are not named take the method's defaults.
    """

    layers: Layers = "all"
    modules: str = "all"
    parameters: dict[str, float | dict[str, float]] = Field(default_factory=dict)


MERGED = "merged"
"""The source of a stacked layer that is the candidate's own."""


class StackLayer(Frozen):
    """One layer of a stacked candidate.

    Attributes:
        layer: its index among the layers of its source.
        source: "merged" for the candidate's merged layer; the name of the base or of an expert for that model's.
        scale: multiplies the hidden states that enter it; in [0.1, 10].
    """

    layer: int = Field(ge=0)
    source: str = MERGED
    scale: float = Field(default=1.0, ge=0.1, le=10.0)


class Recipe(Frozen):
    """One merge, completely described.

    Attributes:
        base: gives the architecture, the tokenizer and, for methods on task vectors, the origin.
        experts: at least one; their names are unique.
        method: the name of a merge method.
        groups: the first group that fits a parameter gives its numbers; a parameter that fits none is an error.
        options: the method's switches and choices, such as `normalize`. A number here holds for the groups that do
            not name it.
        dtype: of the result; the arithmetic is float32 and is rounded once, at the end.
        tokenizer: whose vocabulary the result has: "base", "union" (the base's tokens, then those that only experts
            have), or an expert's name.
        seed: of the random masks; has no effect on methods without any.
        allow_nonfinite: whether sources may hold NaN or infinite weights, and then the result too. Absent from JSON
            and digest when False.
        stack: the decoder's layers, first to last, where they are not each merged layer once and in order. Absent
            from JSON and digest when None.
    """

    base: ModelRef
    experts: tuple[ModelRef, ...] = Field(min_length=1)
    method: str
    groups: tuple[Group, ...] = Field(default=(Group(),), min_length=1)
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    dtype: Dtype = "bfloat16"
    tokenizer: str = "base"
    seed: int = Field(default=0, ge=0, lt=2**63)
    allow_nonfinite: bool = Field(default=False, exclude_if=lambda allowed: not allowed)
    stack: tuple[StackLayer, ...] | None = Field(default=None, min_length=1, exclude_if=lambda stack: stack is None)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Recipe:
        names = [expert.name for expert in self.experts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"experts must have unique names, but {twice[0]!r} names two; give one a `name`")
        for group in self.groups:
            for parameter, value in group.parameters.items():
                unknown = sorted(set(value) - set(names)) if isinstance(value, dict) else []
                if unknown:
                    raise ValueError(
                        f"{parameter} must name experts of the recipe ({', '.join(names)}), but names {unknown[0]!r}"
                    )
        return self

    @model_validator(mode="after")
    def _stack_names_sources(self) -> Recipe:
        if self.stack is not None:
            check_sources(self, [layer.source for layer in self.stack])
        return self

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of SHA-256 over the recipe's canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_sources(recipe: Recipe, sources: Iterable[str]) -> None:
    """Raise InputError unless each is "merged" or the name of one model of the recipe."""
    models = [recipe.base, *recipe.experts]
    for source in dict.fromkeys(sources):
        named = {model.model_dump_json() for model in models if model.name == source}
        if source == MERGED and named:
            raise InputError(f"no model of a recipe with a stack may be called {MERGED!r}; give it another `name`")
        if len(named) > 1:
            raise InputError(f"the source of stacked layers must name one model, but {source!r} names two")
        if source != MERGED and not named:
            raise unknown_name("the source of stacked layers", source, [MERGED, *(model.name for model in models)])


class ParameterSpec(Frozen):
    """One parameter of a merge method, as its signature declares it.

    Attributes:
        name: as recipes and configurations write it.
        kind: "number" (may be searched), "switch" (a bool) or "choice" (one of `choices`).
        per_expert: whether each expert has its own value.
        low, high: the range of a number, inclusive.
        default: the value where a recipe names none.
        search: the bounds a search uses when the user gives none; None: the parameter stays at its default.
        choices: the values of a choice.
    """

    name: str
    kind: Literal["number", "switch", "choice"]
    default: float | bool | str
    per_expert: bool = False
    low: float = -math.inf
    high: float = math.inf
    search: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)
