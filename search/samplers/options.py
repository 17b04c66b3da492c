"""Options of samplers: the signature of what builds one is their schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from evomerge.errors import InputError, unknown_name

SECTION = "search.sampler_options"


def check_options(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the factory takes them.

    Args:
        factory: its keyword-only parameters are the options; their annotations state types and ranges, such as
            `population: Annotated[int, Field(ge=2)] = 16`.
        options: from the configuration.

    Raises:
        InputError: an option is unknown, of another type, or out of its range.
    """
    parameters = inspect.signature(factory).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    hints = get_type_hints(factory, include_extras=True)
    return {name: _checked(name, hints.get(name, Any), value, known) for name, value in options.items()}


def _checked(name: str, kind: Any, value: Any, known: list[str]) -> Any:
    if not known:
        raise InputError(f"{SECTION} must be empty for a sampler without options, but got {name!r}")
    if name not in known:
        raise unknown_name(f"a key of {SECTION}", name, known)
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[-1]
        rule = str(found["msg"]).removeprefix("Value error, ")
        raise InputError(f"{SECTION}.{name}: {rule}, but got {value!r}") from None
