"""What all charts share: colours that colour-blind eyes tell apart, safe labels, small numbers, one layout."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.secrets import hide

# Okabe and Ito, Color Universal Design, 2008.
BLUE, ORANGE, VERMILLION, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#8A8A8A"
UNSIGNED = "Cividis"  # Nunez, Anderton and Renslow, PLoS ONE 13(7), 2018: made for colour-blind eyes
SIGNED = [[0.0, "#D55E00"], [0.5, "#F4F4F4"], [1.0, "#0072B2"]]

NONE = "\N{EN DASH}"  # in a table
_LONGEST = 26


def label(name: str, longest: int = _LONGEST) -> str:
    """A name on a chart: its middle left out where it is long, and nothing in it that Plotly takes for markup."""
    return html.escape(shortened(hide(name), longest), quote=False)


def labels(names: Sequence[str], longest: int = _LONGEST) -> list[str]:
    """Names on an axis, where equal ones would become one: those get their place behind them."""
    short = [label(name, longest) for name in names]
    return [name if short.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(short)]


def shortened(name: str, longest: int = _LONGEST) -> str:
    """A name with its middle left out where it is long."""
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[: longest - 1 - half]}…{name[-half:]}"


def small(numbers: Iterable[float | None]) -> list[float | None]:
    """Numbers with five significant digits; None in place of those that are not finite."""
    return [None if number is None or not math.isfinite(number) else float(f"{number:.5g}") for number in numbers]


def layout(height: int, x: str = "", y: str = "", **more: Any) -> dict[str, Any]:
    """A layout of a height in pixels, with titles of the axes; the page's script gives it its colours."""
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": {"title": {"text": x}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": y}, "automargin": True, "zeroline": False},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hoverlabel": {"align": "left"},
    }
    return merged(base, more)


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of keys over another."""
    found = dict(base)
    for key, value in more.items():
        there = found.get(key)
        found[key] = merged(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return found


def number(value: float | None, digits: int = 3) -> str:
    """A number in a table; `NONE` where there is none."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference."""
    return f"{value:+.3f}"


def interval(bounds: Sequence[float], sign: bool = False) -> str:
    """An interval in brackets."""
    return f"[{', '.join(f'{bound:+.3f}' if sign else f'{bound:.3f}' for bound in bounds)}]"


def count(number: int, thing: str) -> str:
    """So many things, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def size(nbytes: float) -> str:
    """Bytes for people."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"
