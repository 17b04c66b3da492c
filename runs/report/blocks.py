"""What a report is made of: sections of paragraphs, lists, tables, charts, code and examples. No markup here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph. `tone`: "", "lead" (large), "note" (small) or "bad"."""

    text: str
    tone: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences. `tone`: "" or "warning"."""

    items: Sequence[str]
    tone: str = ""
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: the columns' names.
        rows: one text a cell; the first of a row names it.
        caption: what it shows.
        strong: places of rows that stand out.
        texts: columns, besides the first, that hold words and stand at the left.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: Sequence[int] = ()
    texts: Sequence[int] = ()
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """A chart of Plotly's.

    Attributes:
        name: unique on the page, of letters and hyphens.
        caption: what it shows, in a sentence.
        alt: what somebody who cannot see it should know.
        data, layout: as `Plotly.newPlot` takes them.
        table: the same numbers, or the telling ones of many.
    """

    name: str
    caption: str
    alt: str
    data: Sequence[Mapping[str, Any]] = field(repr=False)
    layout: Mapping[str, Any] = field(repr=False)
    table: Table | None = field(default=None, repr=False)
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Code:
    """Text in a fixed pitch: commands, or a file."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Example:
    """A document with the scores that models got on it: `scores` are (model, score in words)."""

    title: str
    document: str
    expected: str
    scores: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "example"


@dataclass(frozen=True)
class Folded:
    """Blocks below a line that opens them."""

    summary: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "folded"


Block = Text | Bullets | Table | Chart | Code | Example | Folded


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading; `name` is unique, of letters and hyphens."""

    name: str
    title: str
    blocks: Sequence[Block]
