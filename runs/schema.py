"""The JSON schema of a search's configuration, for editors: what they complete, explain and underline.

`python -m evomerge.runs.schema` writes the file that the package ships.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from inspect import getdoc
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import ParameterSpec
from evomerge.evaluators.config import Constraint, EvaluateConfig, TaskSpec
from evomerge.evaluators.evaluator import EVALUATORS
from evomerge.runs.tracking import TRACKERS
from evomerge.search.config import MergeConfig, RuntimeConfig, SearchConfig, SearchSection
from evomerge.search.sampling import AUTO, SAMPLERS
from evomerge.search.warm_starts import GRADIENT, WARM_STARTS
from evomerge.spaces.basis import LAYER_SPACES, options_of
from evomerge.spaces.config import SpaceConfig

SHIPPED = Path(__file__).parents[1] / "search-config.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Json = dict[str, Any]

DURATION: Json = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*[smhd]?\s*$"}
RECIPE_FILE: Json = {"type": "string", "pattern": r"/|\.(yaml|yml|json)$"}
CLASS: Json = {"type": "string", "pattern": ":"}
BOUNDS: Json = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}


def config_schema() -> Json:
    """The schema (JSON Schema 2020-12) of what `load_config` reads, with the names of all members installed.

    What it accepts may still break a rule about several keys at once, which only `load_config` knows. The other way
    round it is stricter than pydantic in one thing: a number must not be written as text.
    """
    schema = SearchConfig.model_json_schema(schema_generator=_Generator)
    return {"$schema": DIALECT, "title": "A search of evomerge", **schema}


def schema_text() -> str:
    """The schema as the shipped file has it."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


class _Generator(GenerateJsonSchema):
    """Adds what the models' docstrings say, the names of members, and the short forms that validators take."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A field's name says it."""
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> Json:
        """An object with a description for each property."""
        told = super().model_schema(schema)
        model = schema["cls"]
        told.pop("title", None)
        told["description"] = _paragraph(model)
        body = next(form for form in (told, *told.get("anyOf", ())) if "properties" in form)
        body["additionalProperties"] = told.pop("additionalProperties")
        properties = body["properties"]
        if model is SpaceConfig:
            del properties["settings"]
            properties |= _space_settings()
        shared = attributes(TaskSpec) if model is Constraint else ()
        for name, text in (*attributes(model), *shared):
            if name in properties:
                properties[name].setdefault("description", text)
        for name, names in _names(model).items():
            properties[name] = {**_without_type(properties[name]), **names}
        return told

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Json:
        """What the validator takes. Raises KeyError for one whose short form is not declared here."""
        function = schema["function"]["function"]
        return _SHORT_FORMS[function.__qualname__](self.generate_inner(schema["schema"]))


def _or(form: Json) -> Callable[[Json], Json]:
    return lambda inner: {"anyOf": [form, inner]}


def _as_it_is(inner: Json) -> Json:
    return inner


def _or_one(inner: Json) -> Json:
    return {"anyOf": [inner["items"], inner]}


_SHORT_FORMS: dict[str, Callable[[Json], Json]] = {
    "seconds": _or(DURATION),
    "_listed": _or_one,
    "ModelRef._from_string": _or({"type": "string", "minLength": 1}),
    "TaskSpec._normalize": _or({"type": "string", "minLength": 1}),
    "Constraint._normalize": _as_it_is,
    "SpaceConfig._gather_settings": _as_it_is,
    "_printable": _as_it_is,
}


def _names(model: type[BaseModel]) -> dict[str, Json]:
    """For the properties that name members of a registry: what may stand there."""
    if model is MergeConfig:
        return {"method": _one_or_several(_one_of(METHODS.names()), least=1), "options": _merge_options()}
    if model is SpaceConfig:
        return {"layers": _one_of(LAYER_SPACES.names())}
    if model is EvaluateConfig:
        return {"evaluator": _one_of(EVALUATORS.names())}
    if model is SearchSection:
        start = {"anyOf": [_one_of((*WARM_STARTS, GRADIENT)), RECIPE_FILE]}
        return {
            "sampler": {"anyOf": [_one_of(tuple(sorted({AUTO, *SAMPLERS.names()}))), CLASS]},
            "warm_start": {"type": "array", "items": start},
        }
    if model is RuntimeConfig:
        return {"trackers": _one_or_several(_one_of(TRACKERS.names()))}
    return {}


def _one_of(names: tuple[str, ...]) -> Json:
    return {"enum": list(names)}


def _one_or_several(item: Json, least: int = 0) -> Json:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": least}]}


def _without_type(told: Json) -> Json:
    return {key: told[key] for key in ("default", "description") if key in told}


def _merge_options() -> Json:
    return {"type": "object", "properties": _parameters(_option), "additionalProperties": False}


def _space_settings() -> Json:
    """The options of layer spaces, and the numbers of merge methods as bounds or fixed."""
    found: Json = {}
    for name in LAYER_SPACES.names():
        function = LAYER_SPACES.get(name)
        hints = get_type_hints(function)
        for option in options_of(function):
            told = TypeAdapter(hints[option]).json_schema()
            found[option] = {**told, "description": f"An option of the layer space `{name}`."}
    return found | _parameters(_bounds)


def _parameters(form: Callable[[ParameterSpec], Json | None]) -> Json:
    """For each parameter of any merge method its form; several forms where methods differ."""
    forms: dict[str, list[Json]] = {}
    users: dict[str, list[str]] = {}
    for method in (METHODS.get(name) for name in METHODS.names()):
        for spec in method.parameters:
            told = form(spec)
            if told is not None:
                users.setdefault(spec.name, []).append(method.name)
                known = forms.setdefault(spec.name, [])
                known += [told] if told not in known else []
    return {
        name: {
            **(known[0] if len(known) == 1 else {"anyOf": known}),
            "description": f"A parameter of {', '.join(users[name])}.",
        }
        for name, known in sorted(forms.items())
    }


def _option(spec: ParameterSpec) -> Json:
    if spec.kind == "switch":
        return {"type": "boolean"}
    return _one_of(spec.choices) if spec.kind == "choice" else _number(spec)


def _bounds(spec: ParameterSpec) -> Json | None:
    if spec.kind != "number":
        return None
    number = _number(spec)
    return {"anyOf": [number, {**BOUNDS, "items": number}]}


def _number(spec: ParameterSpec) -> Json:
    return {"type": "number", "minimum": spec.low, "maximum": spec.high}


def _paragraph(model: type[BaseModel]) -> str:
    return " ".join((getdoc(model) or "").split("\n\n")[0].split())


def attributes(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The name and description of each attribute that the docstring explains, in YAML's words."""
    _, _, section = (getdoc(model) or "").partition("Attributes:\n")
    for entry in re.split(r"\n    (?=\S)", f"\n{section}")[1:]:
        names, _, text = entry.partition(": ")
        for name in names.split(", "):
            yield name, re.sub(r"\bNone\b", "null", " ".join(text.split()))


if __name__ == "__main__":
    SHIPPED.write_text(schema_text(), encoding="utf-8")
