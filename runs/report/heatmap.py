"""The recipe as pictures: each of its numbers by layer and expert, and the order of layers where they are stacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from evomerge.engine.recipe import MERGED, Group, Recipe
from evomerge.runs.report.blocks import Block, Chart, Section, Table, Text
from evomerge.runs.report.drawing import GREY, NONE, SIGNED, UNSIGNED, count, labels, layout, number, shortened, small
from evomerge.runs.report.facts import Facts

WRITTEN = 72  # cells that have their number written in them at most
TICKS = 9  # on the axis of layers at most
IN_TABLE = 2000  # cells of a table at most
OUTSIDE = "outside"
EVERY_EXPERT = "all experts"

Grid = list[list[float]]


def coefficients(facts: Facts) -> Section | None:
    """A heat map for each parameter and group of modules; None: there is no recipe."""
    recipe = facts.recipe
    if recipe is None:
        return None
    depth = _depth(recipe)
    columns = [*([str(layer) for layer in range(depth)] if depth else ["all layers"])]
    columns += [OUTSIDE] if _has_outside(recipe) else []
    blocks: list[Block] = [
        Text(
            f"The recipe of {facts.who}, trial {facts.best.number if facts.best else '?'}: {recipe.method} of "
            f"{count(len(recipe.experts), 'expert')}. A row is an expert, a column a layer"
            f"{'; outside: embeddings, final norm and head' if OUTSIDE in columns else ''}."
        )
    ]
    for place, (parameter, modules) in enumerate(_kinds(recipe)):
        blocks.append(_shown(recipe, parameter, modules, depth, columns, place))
    if recipe.stack is not None:
        blocks.append(_stack(recipe))
    return Section("coefficients", "Coefficients by layer and expert", blocks)


def _kinds(recipe: Recipe) -> list[tuple[str, str]]:
    """(parameter, group of modules), in the order in which the recipe names them."""
    return list(dict.fromkeys((name, group.modules) for group in recipe.groups for name in group.parameters))


def _depth(recipe: Recipe) -> int:
    """The number of layers that the recipe tells apart; 0: none."""
    return max((group.layers[1] for group in recipe.groups if isinstance(group.layers, tuple)), default=0)


def _has_outside(recipe: Recipe) -> bool:
    return any(group.layers == "outside" for group in recipe.groups) or (
        _depth(recipe) > 0 and any(group.layers == "all" for group in recipe.groups)
    )


def _shown(
    recipe: Recipe, parameter: str, modules: str, depth: int, columns: Sequence[str], place: int
) -> Chart | Text:
    """The map; of a number that is the same everywhere a sentence."""
    values = grid(recipe, parameter, modules, depth)
    what = f"{parameter} of {'all modules' if _groups(recipe) == ['all'] else _told(modules)}"
    distinct = {value for row in values for value in row if not math.isnan(value)}
    if len(distinct) == 1:
        return Text(f"{what[0].upper()}{what[1:]}: {number(distinct.pop())} everywhere.")
    if columns[-1] == OUTSIDE and all(math.isnan(row[-1]) for row in values):
        values, columns = [row[:-1] for row in values], columns[:-1]
    names = [expert.name for expert in recipe.experts] if _is_own(recipe, parameter) else [EVERY_EXPERT]
    return _map(values, names, columns, what, depth, place)


def _map(values: Grid, names: Sequence[str], columns: Sequence[str], what: str, depth: int, place: int) -> Chart:
    finite = [value for row in values for value in row if not math.isnan(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    is_signed = low < 0 < high
    reach = max(abs(low), abs(high))
    ticks = list(columns[:: math.ceil(len(columns) / TICKS)])
    axis = {"type": "category", "title": {"text": "layer" if depth else ""}, "tickangle": 0, "tickvals": ticks}
    gap = 1 if len(columns) <= TICKS * 4 else 0
    written = len(finite) <= WRITTEN
    data = {
        "type": "heatmap",
        "z": [small(row) for row in values[::-1]],
        "x": list(columns),
        "y": labels(names, 18)[::-1],
        "colorscale": SIGNED if is_signed else UNSIGNED,
        "zmin": -reach if is_signed else min(0.0, low),
        "zmax": reach if is_signed else (high if high > min(0.0, low) else low + 1),
        "xgap": gap,
        "ygap": gap,
        "colorbar": {"thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{y}, layer %{x}: %{z:.4f}<extra></extra>",
        **({"texttemplate": "%{z:.2f}"} if written else {}),
    }
    largest = max(zip(values, names, strict=True), key=lambda each: _largest(each[0]))
    return Chart(
        f"coefficients-{place}",
        f"{what[0].upper()}{what[1:]}.",
        f"{what} from {number(low)} to {number(high)}; the largest is of {shortened(largest[1], 60)}.",
        [data],
        layout(
            96 + (34 if len(names) <= 12 else 22 if len(names) <= 40 else 15) * len(names),
            xaxis=axis,
            yaxis={"type": "category", "ticksuffix": " "},
        ),
        _numbers(values, names, columns, what),
    )


def _numbers(values: Grid, names: Sequence[str], columns: Sequence[str], what: str) -> Table:
    """Each of them; of very many the mean and the ends over the layers, as the recipe has them all."""
    if len(names) * len(columns) <= IN_TABLE:
        rows = [[name, *(number(value) for value in row)] for name, row in zip(names, values, strict=True)]
        return Table(["expert", *columns], rows, f"{what}, by layer.")
    known = [[value for value in row if not math.isnan(value)] for row in values]
    rows = [
        [name, *(number(of(row)) if row else NONE for of in (min, fmean, max))]
        for name, row in zip(names, known, strict=True)
    ]
    return Table(["expert", "lowest", "mean", "highest"], rows, f"{what}, over the layers; the recipe has all numbers.")


def _largest(row: Sequence[float]) -> float:
    return max((value for value in row if not math.isnan(value)), default=-math.inf)


def _told(modules: str) -> str:
    return {"all": "all other modules", "other": "other modules", "attention": "attention", "mlp": "MLPs"}.get(
        modules, f"modules {shortened(modules, 40)}"
    )


def _groups(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(group.modules for group in recipe.groups))


def _is_own(recipe: Recipe, parameter: str) -> bool:
    """Whether each expert has its own number."""
    return any(isinstance(group.parameters.get(parameter), Mapping) for group in recipe.groups)


def grid(recipe: Recipe, parameter: str, modules: str, depth: int) -> Grid:
    """The numbers of a parameter in a group of modules: a row for each expert, or one where all share them.

    A column for each layer (one where the recipe tells none apart), then one for what lies outside of layers, where the
    recipe has numbers for it. NaN: the recipe names none there.
    """
    experts = [expert.name for expert in recipe.experts] if _is_own(recipe, parameter) else [""]
    places: list[int | None] = [*range(depth)] if depth else [0]
    if _has_outside(recipe):
        places.append(None)
    found = [_first(recipe, modules, place, depth) for place in places]
    return [[_value(group, parameter, expert) for group in found] for expert in experts]


def _first(recipe: Recipe, modules: str, layer: int | None, depth: int) -> Group | None:
    """The first group for a layer, None: for what lies in none, of these modules or, where there is none, of all."""
    is_inside = modules in ("attention", "mlp")  # which lie in layers alone
    for wanted in (modules,) if layer is None and is_inside else (modules, "all"):
        for group in recipe.groups:
            if group.modules == wanted and _fits(group, layer, depth):
                return group
    return None


def _fits(group: Group, layer: int | None, depth: int) -> bool:
    if isinstance(group.layers, tuple):
        return layer is not None and group.layers[0] <= layer < group.layers[1]
    if group.layers == "outside":
        return layer is None
    return layer is None or not depth or group.layers == "all"


def _value(group: Group | None, parameter: str, expert: str) -> float:
    if group is None or parameter not in group.parameters:
        return math.nan
    value = group.parameters[parameter]
    return float(value.get(expert, math.nan) if isinstance(value, Mapping) else value)


def _stack(recipe: Recipe) -> Chart:
    """Which layer of which model stands where."""
    assert recipe.stack is not None
    sources = list(dict.fromkeys([MERGED, *(layer.source for layer in recipe.stack)]))
    places = list(range(len(recipe.stack)))
    shown = [
        [float(layer.layer) if layer.source == source else math.nan for layer in recipe.stack] for source in sources
    ]
    scales = [layer.scale for layer in recipe.stack]
    data = {
        "type": "heatmap",
        "z": [small(row) for row in shown[::-1]],
        "x": places,
        "y": labels(sources, 18)[::-1],
        "colorscale": UNSIGNED,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "title": {"text": "layer"}},
        "hovertemplate": "place %{x}: layer %{z} of %{y}<extra></extra>",
        **({"texttemplate": "%{z}"} if len(places) <= WRITTEN // 2 else {}),
    }
    rows = [
        [str(place), str(layer.layer), layer.source, f"{layer.scale:g}"] for place, layer in enumerate(recipe.stack)
    ]
    scaled = sum(scale != 1 for scale in scales)
    return Chart(
        "stack",
        "The stack, first layer to last: the colour says which layer of its model stands there"
        f"{f'; {scaled} of them scale what enters them (see the table)' if scaled else ''}.",
        f"{count(len(places), 'layer')} from {count(len(sources), 'source')}.",
        [data],
        layout(
            110 + 34 * len(sources),
            xaxis={"title": {"text": "place in the stack"}},
            yaxis={"type": "category", "ticksuffix": " "},
            plot_bgcolor=f"{GREY}22",
        ),
        Table(["place", "layer", "of", "scale"], rows, "The stack.", texts=[2]),
    )
