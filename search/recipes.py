"""Reading recipes: evomerge's own, in YAML or JSON, and mergekit's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.errors import InputError, unknown_name
from evomerge.search.config import first_error, read_mapping
from evomerge.search.slices import groups_of, sources_of, stack_of

_MERGEKIT_KEYS = {
    "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source",
}  # fmt: skip
_DTYPES = ("float32", "bfloat16", "float16")


def is_recipe(source: str) -> bool:
    """Whether `source` is a file that can only be a recipe."""
    return Path(source).suffix.lower() in (".yaml", ".yml", ".json") and Path(source).is_file()


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; relative paths in it are relative to its folder.

    Raises:
        InputError: one line that names the file and the key, the rule, the value found, and the nearest known name.
    """
    raw = read_mapping(path, "recipe")
    try:
        recipe = Recipe.model_validate(_from_mergekit(raw, path) if "merge_method" in raw else raw)
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error, Recipe)}") from None
    folder = path.resolve().parent
    return recipe.model_copy(
        update={
            "base": recipe.base.relative_to(folder),
            "experts": tuple(expert.relative_to(folder) for expert in recipe.experts),
        }
    )


def _from_mergekit(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a Recipe from a mergekit configuration with one list of models and plain numbers, or with slices.

    Without a base_model (linear), the first model stands in as the base: it gives architecture and tokenizer only.
    """
    for key in raw:
        if key not in _MERGEKIT_KEYS:
            raise unknown_name(f"{path}: a key of a mergekit recipe that evomerge reads", key, _MERGEKIT_KEYS)
    if "slices" in raw:
        return _from_slices(raw, path)
    listed = [entry if isinstance(entry, dict) else {"model": entry} for entry in raw.get("models") or []]
    if not listed or any("model" not in entry for entry in listed):
        raise InputError(f"{path}: models must be a list of entries with a model, but got {raw.get('models')!r}")
    base = str(raw.get("base_model") or listed[0]["model"])
    entries = [entry for entry in listed if not raw.get("base_model") or str(entry["model"]) != base]
    experts = [
        {**_reference(str(entry["model"])), "name": name} for entry, name in zip(entries, _names(entries), strict=True)
    ]
    numbers: dict[str, Any] = {}
    for expert, entry in zip(experts, entries, strict=True):
        for parameter, value in (entry.get("parameters") or {}).items():
            numbers.setdefault(parameter, {})[expert["name"]] = _plain(value, parameter, path)
    options: dict[str, Any] = {}
    for parameter, value in (raw.get("parameters") or {}).items():
        place = numbers if parameter == "t" else options
        place[parameter] = _plain(value, parameter, path)
    options = _translated(str(raw["merge_method"]), options, "base_model" in raw, path)
    return {
        "base": _reference(base),
        "experts": experts,
        "method": raw["merge_method"],
        "groups": [{"parameters": numbers}],
        "options": options,
        "tokenizer": _tokenizer(raw, base, {str(e["model"]): x["name"] for e, x in zip(entries, experts, strict=True)}),
        "dtype": raw.get("out_dtype") or raw.get("dtype") or _dtype_of(base, path),
    }


def _from_slices(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """The first slice's model is the base. Where it is the only one, it is an expert, too: a recipe needs one."""
    models = list(dict.fromkeys(model for model, _, _ in sources_of(raw, path)))
    names = dict(zip(models, _names([{"model": model} for model in models]), strict=True))
    base, others = models[0], models[1:]
    experts = [{**_reference(model), "name": names[model]} for model in others]
    experts = experts or [{**_reference(base), "name": f"{names[base]}-again"}]
    last = sources_of(raw, path)[-1][0]
    return {
        "base": {**_reference(base), "name": names[base]},
        "experts": experts,
        "method": "linear",
        "groups": groups_of([expert["name"] for expert in experts], None if last == base else names[last]),
        "stack": stack_of(raw, names, path),
        "tokenizer": _tokenizer(raw, base, names),
        "dtype": raw.get("out_dtype") or raw.get("dtype") or _dtype_of(base, path),
    }


def _translated(method: str, options: dict[str, Any], based: bool, path: Path) -> dict[str, Any]:
    """mergekit's options under our names.

    What only says how mergekit computes (int8_mask; the steps of karcher, which here go on until nothing moves) is
    left out.
    """
    options = {name: value for name, value in options.items() if name not in ("int8_mask", "max_iter", "tol", "eps")}
    if method.startswith(("dare", "della")):
        options["rescale"] = "l1" if options.get("rescale", True) else "none"
    if method == "multislerp" and "normalize_weights" in options:
        options["normalize"] = options.pop("normalize_weights")
    if method == "nuslerp":
        options["row_wise"] = not options.pop("nuslerp_flatten", True)
        if options.pop("nuslerp_row_wise", False) and options["row_wise"]:
            raise InputError(
                f"{path}: nuslerp_row_wise must be false (arcs run along the last axis here), but got True"
            )
    if method in ("nuslerp", "multislerp"):
        options["task_vectors"] = based
    return options


def _tokenizer(raw: dict[str, Any], base: str, names: Mapping[str, str]) -> str:
    """mergekit's tokenizer_source: base, union, or a model. What it names otherwise is refused with the models."""
    source = str(raw.get("tokenizer_source") or "base")
    return "base" if source == base else names.get(source, source)


def _plain(value: Any, parameter: str, path: Path) -> Any:
    if isinstance(value, list | dict):
        raise InputError(
            f"{path}: {parameter} must be a single number in this version (no gradients or filters), but got {value!r}"
        )
    return value


def _names(entries: list[dict[str, Any]]) -> list[str]:
    """Short names where they are unique, whole references where not."""
    short = [Path(str(entry["model"]).split("+")[-1]).name for entry in entries]
    return [name if short.count(name) == 1 else str(entry["model"]) for name, entry in zip(short, entries, strict=True)]


def _reference(text: str) -> dict[str, Any]:
    """mergekit's model@revision+adapter."""
    model, _, adapter = text.partition("+")
    model, _, revision = model.partition("@")
    return {"model": model, "revision": revision or None, "adapter": adapter or None}


def _dtype_of(base: str, path: Path) -> str:
    """The precision that the base is stored in: mergekit's meaning of an absent dtype."""
    reference = ModelRef.model_validate(_reference(base)).relative_to(path.resolve().parent)
    stored = str(open_checkpoint(reference).config.get("dtype") or open_checkpoint(reference).config.get("torch_dtype"))
    if stored not in _DTYPES:
        raise InputError(
            f"{path}: dtype must be given, since {base} does not say its own (one of {', '.join(_DTYPES)})"
        )
    return stored
