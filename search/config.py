"""The configuration of a search, as its YAML file states it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from evomerge.engine.recipe import Dtype, Frozen, ModelRef
from evomerge.errors import InputError, unknown_name
from evomerge.evaluators.config import EvaluateConfig
from evomerge.plain import parse_yaml, read_yaml
from evomerge.secrets import require_no_secrets
from evomerge.sizes import parse_size
from evomerge.spaces.config import SpaceConfig

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Any) -> Any:
    """A duration in seconds: a number, or text such as `90s`, `30m`, `1.5h`, `2d`."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
    if not match:
        raise ValueError(f"a duration must be seconds or a number with s, m, h or d, such as 30m, but got {value!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class ModelsConfig(Frozen):
    """The section `models`.

    Attributes:
        base: what is kept, and what the experts were trained from.
        experts: to take strengths from.
    """

    base: ModelRef
    experts: tuple[ModelRef, ...] = Field(min_length=1)


def _size(value: str | int | None) -> str | int | None:
    if value is not None:
        parse_size(value)
    return value


class MergeConfig(Frozen):
    """The section `merge`.

    Attributes:
        method: the methods to choose from; one, or a list that the search chooses from.
        dtype: of the candidate. The arithmetic is float32, rounded once.
        tokenizer: whose vocabulary the candidate has: "base", "union" or an expert's name.
        allow_nonfinite: whether sources may hold NaN or infinite weights.
        options: the method's switches and choices.
    """

    method: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(default=("task_arithmetic",), min_length=1)
    dtype: Dtype = "bfloat16"
    tokenizer: str = "base"
    allow_nonfinite: bool = False
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)


class SearchSection(Frozen):
    """The section `search`.

    Attributes:
        sampler: who proposes candidates: "auto", a sampler's name, or `package.module:Class` of an Optuna sampler.
        sampler_options: keyword arguments of the sampler.
        trials: candidates in all, warm starts included.
        timeout: stop proposing after so many seconds (or `30m`, `2h`); None: no limit.
        seed: of everything random. The same seed gives the same search.
        warm_start: candidates to try first: "uniform", "experts", "sweep", "gradient", or the path of a recipe.
        finalists: how many of the best candidates are scored again on the split `select`.
        stop: "auto" ends the search before `trials` when more are not worth it.
        compare: searches of equal budget to compare with: "random".
    """

    sampler: str = "auto"
    sampler_options: dict[str, Any] = Field(default_factory=dict)
    trials: int = Field(default=60, ge=1)
    timeout: Annotated[float | None, BeforeValidator(seconds)] = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)
    warm_start: tuple[str, ...] = ("uniform", "experts", "sweep")
    finalists: int = Field(default=5, ge=1)
    stop: Literal["auto"] | None = None
    compare: Annotated[tuple[Literal["random"], ...], BeforeValidator(_listed)] = ()

    def relative_to(self, folder: Path) -> SearchSection:
        """The same with the paths of recipes relative to `folder`."""
        starts = [str(folder / start) if is_recipe_file(start) else start for start in self.warm_start]
        return self.model_copy(update={"warm_start": tuple(starts)})


def is_recipe_file(warm_start: str) -> bool:
    """Whether an entry of `search.warm_start` is the path of a recipe, and no name."""
    return "/" in warm_start or warm_start.endswith((".yaml", ".yml", ".json"))


class RuntimeConfig(Frozen):
    """The section `runtime`: where a search runs. May differ between a run and its resumption.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:i", or "balanced" for all GPUs together.
        memory_limit: of the host's memory, such as "16GB", for all of the run's workers on it together; None: what is
            free.
        workers: processes that score candidates side by side, each with a share of the cores or a GPU of its own.
        storage: the database's URL; None: SQLite inside the run's folder.
        stale: seconds (or `45s`, `2m`) without a sign of life after which what a worker of another host was doing is
            given to another one; processes of one host see at once that one is gone.
        patience: seconds that a running search goes on trying while its database does not answer.
        launcher: how workers are started: as "processes" of this host, or by "ray" on a cluster.
        trackers: what is told of the search's progress: "wandb", "mlflow", "tensorboard".
    """

    device: str = Field(default="auto", pattern=r"^(auto|balanced|cpu|cuda(:\d+)?)$")
    memory_limit: Annotated[str | int | None, AfterValidator(_size)] = None
    workers: int = Field(default=1, ge=1)
    storage: str | None = None
    stale: Annotated[float, BeforeValidator(seconds)] = Field(default=45.0, gt=0)
    patience: Annotated[float, BeforeValidator(seconds)] = Field(default=600.0, ge=0)
    launcher: Literal["processes", "ray"] = "processes"
    trackers: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()


class SearchConfig(Frozen):
    """Everything that a search is told. `load_config` reads one from YAML."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    models: ModelsConfig
    merge: MergeConfig = MergeConfig()
    space: SpaceConfig = SpaceConfig()
    evaluate: EvaluateConfig
    search: SearchSection = SearchSection()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _experts_are_distinct(self) -> SearchConfig:
        names = [expert.name for expert in self.models.experts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"experts must have unique names, but {twice[0]!r} names two; give one a `name`")
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> SearchConfig:
    """Read a configuration; relative paths in it are relative to its folder.

    Args:
        path: a YAML file.
        overrides: `key.path=value`, the value in YAML; each replaces a key of the file.

    Raises:
        InputError: one line that names the file and the key, the rule, the value found, and the nearest known name.
    """
    path = Path(path)
    raw = read_mapping(path, "configuration")
    for override in overrides or []:
        _override(raw, override)
    require_no_secrets(raw, str(path), besides="runtime.storage")
    config = parse_config(raw, str(path))
    folder = path.resolve().parent
    models = config.models.model_copy(
        update={
            "base": config.models.base.relative_to(folder),
            "experts": tuple(expert.relative_to(folder) for expert in config.models.experts),
        }
    )
    search = config.search.relative_to(folder)
    return config.model_copy(
        update={"models": models, "evaluate": config.evaluate.relative_to(folder), "search": search}
    )


def parse_config(raw: dict[str, Any], source: str) -> SearchConfig:
    """A configuration from plain data. Raises InputError with `source` and the key in front of the rule."""
    try:
        return SearchConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{source}: {first_error(error, SearchConfig)}") from None


def first_error(error: ValidationError, model: type[BaseModel]) -> str:
    """The first error of a validation in one line: key, rule, value, nearest name."""
    details = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return str(unknown_name(f"a key of {_section(where)}", where.rsplit(".", 1)[-1], _keys(model, details["loc"])))
    found = "" if details["type"] in ("missing", "value_error") else f", but got {details['input']!r}"
    rule = details["msg"].removeprefix("Value error, ")
    return f"{where + ': ' if where else ''}{rule}{found}"


def _section(where: str) -> str:
    return where.rsplit(".", 1)[0] if "." in where else "the configuration"


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one was found."""
    fields: Any = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = fields.model_fields[part].annotation if part in fields.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        fields = next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), fields)
    return list(fields.model_fields)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The keys in a YAML (or JSON) file. Raises InputError, in words about `what`, when it is not a mapping."""
    raw = read_yaml(path, f"a {what} in YAML")
    if not isinstance(raw, dict):
        raise InputError(f"the {what} must be a mapping of keys, but {path} holds {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    keys, equals, text = override.partition("=")
    if not equals or not keys:
        raise InputError(f"--set must be key.path=value, but got {override!r}")
    value = parse_yaml(text, f"--set {keys} must be given a YAML value")
    *sections, last = keys.split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {keys} must name a key of a section, but {section} is not a section")
    place[last] = value
