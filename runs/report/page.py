"""The page: all sections in one HTML file that asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from evomerge.runs.files import write_text
from evomerge.runs.report.answer import answer
from evomerge.runs.report.blocks import Section
from evomerge.runs.report.conflict import conflict
from evomerge.runs.report.cost import cost
from evomerge.runs.report.documents import documents
from evomerge.runs.report.facts import Facts, read_facts
from evomerge.runs.report.heatmap import coefficients
from evomerge.runs.report.importance import importance
from evomerge.runs.report.progress import progress
from evomerge.runs.report.searched import searched
from evomerge.runs.report.story import decisions, recipe, reproduce
from evomerge.runs.report.tradeoffs import constraints, front, niches
from evomerge.runs.report.warnings import warnings
from evomerge.runs.run import Run
from evomerge.secrets import hide

REPORT = "report.html"

SECTIONS: Sequence[Callable[[Facts], Section | None]] = (
    answer,
    warnings,
    searched,
    progress,
    coefficients,
    importance,
    front,
    constraints,
    niches,
    documents,
    cost,
    conflict,
    decisions,
    reproduce,
    recipe,
)


def write_report(run: Run, to: Path | None = None) -> Path:
    """Write a run's report, whole or not at all.

    Args:
        run: finished, stopped or under way.
        to: the file; None: report.html in the run's folder.

    Returns:
        The file.

    Raises:
        EvomergeError: when the file cannot be written.
    """
    path = to or run.folder / REPORT
    write_text(path, page(run))
    return path


def page(run: Run) -> str:
    """The report of a run as HTML: everything in it, names, documents and notes, is text and never markup or code.

    The page holds Plotly's library (some 5 MB) and no address that a browser would load anything from; its content
    security policy forbids to, and names the scripts that may run by their digests.
    """
    facts = read_facts(run)
    sections = [section for make in SECTIONS if (section := make(facts)) is not None]
    scripts = _scripts()
    return str(
        _template().render(
            name=facts.told["name"],
            state=facts.told["state"] if facts.is_open else "finished",
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            sections=sections,
            style=Markup(_text("page.css")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
        )
    )


@lru_cache(maxsize=1)
def _scripts() -> tuple[str, ...]:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()), _text("page.js")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing may be loaded, and only these scripts may run (Content Security Policy Level 3, section 2.3.1)."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _text(name: str) -> str:
    return files("evomerge.runs.report").joinpath(name).read_text(encoding="utf-8")


def _without_secrets(value: object) -> object:
    """A text without the credentials in it: an error's may hold a database's URL."""
    return hide(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("evomerge.runs.report", "."),
        autoescape=True,
        finalize=_without_secrets,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
