"""The merge methods, as a user reads them: all of them in a table, or one in full. No torch here."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from evomerge.engine.method import METHODS, MergeMethod
from evomerge.engine.recipe import ParameterSpec

LINKS = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}


def everything() -> dict[str, Any]:
    """All methods in alphabetical order: {"methods": [as `described`]}."""
    return {"methods": [described(name) for name in METHODS.names()]}


def described(name: str) -> dict[str, Any]:
    """One method: {name, purpose, experts, random, paper, link, parameters, documentation}.

    Raises:
        InputError: there is no such method.
    """
    method = METHODS.get(name)
    return {
        "name": method.name,
        "purpose": method.purpose,
        "experts": {"at_least": method.min_experts, "at_most": method.max_experts},
        "random": method.random,
        "paper": method.paper,
        "link": _link(method.paper),
        "parameters": [_parameter(spec) for spec in method.parameters],
        "documentation": method.doc,
    }


def methods_table() -> Table:
    """A row for each method."""
    table = Table(title="* one number for each expert; evomerge methods NAME explains one", title_justify="left")
    table.add_column("method", no_wrap=True)
    table.add_column("what for")
    table.add_column("parameters: default, [range]")
    table.add_column("paper")
    for name in METHODS.names():
        method = METHODS.get(name)
        parameters = "\n".join(_summary(spec) for spec in method.parameters) or "none"
        table.add_row(method.name, Text(method.purpose), Text(parameters), Text(_short(method.paper)))
        table.add_section()
    return table


def method_page(name: str) -> Group:
    """The documentation of one method and its parameters. Raises InputError when there is no such method."""
    method = METHODS.get(name)
    table = Table(show_edge=False)
    for column in ("parameter", "values", "default", "searched in", "for"):
        table.add_column(column)
    for spec in method.parameters:
        owner = "each expert" if spec.per_expert else "all experts"
        table.add_row(
            *(Text(cell) for cell in (spec.name, _values(spec), _plain(spec.default), _searched(spec), owner))
        )
    head = f"{method.name}: takes {method.takes}{_random(method)}; {_link(method.paper)}"
    return Group(
        Text(head), Text(), Text(flowed(method.doc)), Text(), table if method.parameters else Text("no parameters")
    )


def flowed(doc: str) -> str:
    """The same with each paragraph, and each parameter's line, on a line of its own, for the terminal to wrap."""
    lines: list[str] = []
    for line in doc.splitlines():
        begins = not line or not lines or not lines[-1] or re.match(r"\w+: ", line)
        if begins:
            lines.append(line)
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines)


def _random(method: MergeMethod) -> str:
    return ", draws random masks" if method.random else ""


def _parameter(spec: ParameterSpec) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": spec.name,
        "kind": spec.kind,
        "default": spec.default,
        "per_expert": spec.per_expert,
    }
    if spec.kind == "number":
        told |= {"range": [spec.low, spec.high], "search": list(spec.search) if spec.search else None}
    if spec.kind == "choice":
        told["choices"] = list(spec.choices)
    return told


def _summary(spec: ParameterSpec) -> str:
    star = "*" if spec.per_expert else ""
    span = f" {_values(spec)}" if spec.kind == "number" else ""
    return f"{spec.name}{star}: {_plain(spec.default)}{span}"


def _values(spec: ParameterSpec) -> str:
    if spec.kind == "number":
        return f"[{spec.low:g}, {spec.high:g}]"
    return "true, false" if spec.kind == "switch" else ", ".join(spec.choices)


def _searched(spec: ParameterSpec) -> str:
    return f"[{spec.search[0]:g}, {spec.search[1]:g}]" if spec.search else ""


def _plain(value: float | bool | str) -> str:
    """As a configuration writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"{value:g}"


def _link(paper: str) -> str:
    scheme, _, rest = paper.partition(":")
    return f"{LINKS[scheme]}{rest}" if scheme in LINKS else paper


def _short(paper: str) -> str:
    """Without the scheme and path of a web address."""
    return paper.split("/")[2] if paper.startswith("https://") else paper
