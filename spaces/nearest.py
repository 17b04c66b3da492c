"""The numbers of a space that are nearest to a recipe's, by least squares over the layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evomerge.spaces.curve import OUTSIDE, Curve
from evomerge.spaces.reading import RecipeReader

SAME = 1e-6
"""Up to which share of a parameter's range two numbers count as the same."""


def nearest_numbers(curves: Iterable[Curve], reader: RecipeReader) -> dict[str, float]:
    """The point of all curves; the reader is told what of the recipe they cannot keep."""
    point: dict[str, float] = {}
    for curve in curves:
        if curve.key.modules == OUTSIDE:
            wanted = [reader.outside(curve.key.parameter, curve.key.expert)]
        else:
            wanted = reader.over_depth(*curve.key)
        point |= curve.fit(wanted)
        _note_bounds(curve, reader, wanted)
        _note_shape(curve, reader, wanted, point)
    return point


def note_settings(fixed: Mapping[str, float], reader: RecipeReader) -> None:
    """Tell the reader what else differs: numbers that are fixed at others, and what holds for the whole recipe."""
    for name, held in fixed.items():
        other = next((number for number in reader.everywhere(name) if number != held), None)
        if other is not None:
            reader.note(f"{name} is fixed at {held:g}, and {other:g} in the recipe")
    reader.compare_settings()


def _note_bounds(curve: Curve, reader: RecipeReader, wanted: list[float]) -> None:
    for number in dict.fromkeys((min(wanted), max(wanted))):
        inside = curve.inside(number)
        if inside != number:
            reader.note(f"{curve.key.owner} {number:g} lies outside of its bounds, {inside:g} is taken")


def _note_shape(curve: Curve, reader: RecipeReader, wanted: list[float], point: dict[str, float]) -> None:
    values = [curve.value(point, layer) for layer in range(len(wanted))]
    most = max(abs(value - curve.inside(each)) for value, each in zip(values, wanted, strict=True))
    if most > SAME * (curve.high - curve.low):
        reader.note(f"{curve.key.name} varies over the layers as the space cannot, by up to {most:.3g}")
    if curve.key.modules == reader.rest != OUTSIDE:
        outside = reader.outside(curve.key.parameter, curve.key.expert)
        if abs(outside - values[0]) > SAME * (curve.high - curve.low):
            reader.note(f"{curve.key.name} is {outside:g} outside of layers, where the space has no number of its own")
