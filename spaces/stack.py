"""Which layers a candidate has, and in which order: a gate for each of several passes over the layers.

(Akiba et al., 2403.13187, section 3.2: the search space of the data flow.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeGuard

from evomerge.engine.recipe import MERGED, Recipe, StackLayer, check_sources
from evomerge.errors import InputError
from evomerge.spaces.basis import Basis, Dimension, layer_space, whole_number
from evomerge.spaces.uniform import uniform

GATE, SCALE = "stack_gate", "stack_scale"
STACKING = (GATE, SCALE)
BLOCKS = 8
"""Blocks in a pass, where the user does not say how long they are."""

LIMITS = (0.1, 10.0)
"""What a recipe allows as a scale."""


@dataclass(frozen=True)
class Slot:
    """One block of layers in one pass: in the candidate, or not.

    Attributes:
        source: "merged", or the name of the model whose layers they are.
        number: of the pass, from 1.
        layers: contiguous.
    """

    source: str
    number: int
    layers: range

    @property
    def name(self) -> str:
        """Unique in its stacking, and what its numbers are called after."""
        return f"[{self.source}] pass {self.number} layers {self.layers[0]}-{self.layers[-1]}"

    @property
    def block(self) -> tuple[str, int]:
        """The same for the same layers of the same model, whatever the pass."""
        return self.source, self.layers[0]

    @property
    def plain(self) -> bool:
        """Whether it is a part of the model as it is."""
        return self.source == MERGED and self.number == 1


class Step(NamedTuple):
    """What became of one slot: whether its gate was asked, and whether it is in the candidate."""

    slot: Slot
    gated: bool
    taken: bool


@dataclass(frozen=True)
class Stacking:
    """The slots that a candidate's layers are chosen from, in their order.

    One goes through the slots from first to last, and a slot is in the candidate iff its gate is 1. So that every
    combination of gates that are asked is another stack, and none is empty or too long, a slot has no gate

    - where it does not fit into `max_layers` any more: it is out;
    - where the same block was refused in an earlier pass and nothing has been taken since: it is out, for taking it
      now would make the stack that taking it then had made;
    - where nothing has been taken and no later slot could be: it is in.

    Attributes:
        slots: at least one; the merged ones of pass 1 are the model as it is.
        scale: bounds of the factor on the hidden states that pass from one slot into the next; a number fixes it.
        max_layers: of a candidate; at least those of the longest slot.
    """

    slots: tuple[Slot, ...]
    scale: tuple[float, float] | float
    max_layers: int

    def dimensions(self) -> tuple[Dimension, ...]:
        """A gate for each slot, and the scale into each but the first, which no other slot can stand before."""
        gates = [
            Dimension(f"{GATE}{slot.name}", 0.0, 1.0, GATE, slot.source, "", index, is_gate=True)
            for index, slot in enumerate(self.slots)
        ]
        if not isinstance(self.scale, tuple):
            return tuple(gates)
        scales = [
            Dimension(f"{SCALE}{slot.name}", *self.scale, SCALE, slot.source, "", index)
            for index, slot in enumerate(self.slots)
        ]
        return (*gates, *scales[1:])

    def active(self, point: Mapping[str, float | str]) -> frozenset[str]:
        """The names of the gates that are asked, and of the scales into slots that others stand before.

        Raises:
            InputError: when such a gate is missing or neither 0 nor 1.
        """
        steps = self._walk(point)
        taken = [step.slot for step in steps if step.taken]
        gates = [f"{GATE}{step.slot.name}" for step in steps if step.gated]
        return frozenset(gates + [f"{SCALE}{slot.name}" for slot in taken[1:] if isinstance(self.scale, tuple)])

    def stack(self, point: Mapping[str, float | str]) -> tuple[StackLayer, ...] | None:
        """The layers of a point; None where they are the merged ones, each once, in order and with scale 1."""
        layers: list[StackLayer] = []
        for slot in (step.slot for step in self._walk(point) if step.taken):
            scale = self._scale_into(slot, point) if layers else 1.0
            first, *others = slot.layers
            layers.append(StackLayer(layer=first, source=slot.source, scale=scale))
            layers += [StackLayer(layer=layer, source=slot.source) for layer in others]
        return None if layers == self._plain() else tuple(layers)

    def constant(self) -> tuple[dict[str, float], list[str]]:
        """The point of the plain model, with one sentence if the bounds of the scale keep it from being just that."""
        point: dict[str, float] = {}
        moved: list[str] = []
        low, high = self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)
        nearest = min(max(1.0, low), high)
        if nearest != 1.0:
            moved.append(f"{SCALE} 1 lies outside of its bounds, {nearest:g} is taken")
        for dimension in self.dimensions():
            gate = int(self.slots[dimension.column].plain)
            point[dimension.name] = gate if dimension.is_gate else nearest
        return point, moved

    def conditions(self) -> tuple[str, ...]:
        """The rule of the gates, and that of the scales."""
        gates = (
            "A gate is 0 or 1. Blocks are gone through in the order of their gates, and one is in where its gate is 1.",
            f"A gate has no effect where its block does not fit into {self.max_layers} layers any more, and the block "
            "is out; where the same block was refused in an earlier pass and none has been taken since, and it is out; "
            "and where it is the last that could be in at all, and it is in.",
        )
        scales = ("A scale has no effect where its block is out or the first one.",)
        return gates + scales * isinstance(self.scale, tuple)

    def nearest(self, stack: Sequence[StackLayer] | None) -> tuple[dict[str, float], list[str]]:
        """The point with the same layers, or else the plain model's, and one sentence for each thing not kept.

        Args:
            stack: of a recipe.
        """
        point, _ = self.constant()
        wanted = list(stack or self._plain())
        starts = self._matched(wanted)
        if starts is None:
            return point, ["the order of layers is none of the space's, the plain model's is taken"]
        point |= {f"{GATE}{slot.name}": int(slot in starts) for slot in self.slots}
        moved: dict[str, None] = {}
        low, high = self.scale if isinstance(self.scale, tuple) else (self.scale, self.scale)
        for slot, start in starts.items():
            scale = wanted[start].scale
            nearest = min(max(scale, low), high) if start else 1.0
            if nearest != scale and start:
                moved[f"{SCALE} {scale:g} lies outside of its bounds, {nearest:g} is taken"] = None
            elif nearest != scale:
                moved[f"{SCALE} {scale:g} is left out: what enters the first layer is not scaled"] = None
            if f"{SCALE}{slot.name}" in point and start:
                point[f"{SCALE}{slot.name}"] = nearest
        inner = [each.scale for place, each in enumerate(wanted) if place not in starts.values() and each.scale != 1.0]
        if inner:
            moved[f"{SCALE} {inner[0]:g} is left out: it stands inside of a block"] = None
        return point, list(moved)

    def check(self, recipe: Recipe) -> None:
        """Raise InputError unless the sources are models of the recipe."""
        check_sources(recipe, [slot.source for slot in self.slots])

    def _scale_into(self, slot: Slot, point: Mapping[str, float | str]) -> float:
        return float(point[f"{SCALE}{slot.name}"]) if isinstance(self.scale, tuple) else self.scale

    def _plain(self) -> list[StackLayer]:
        return [StackLayer(layer=layer) for slot in self.slots if slot.plain for layer in slot.layers]

    def _matched(self, wanted: Sequence[StackLayer]) -> dict[Slot, int] | None:
        """The slots that make up these layers, each with where it starts; None where none do, or they are too many."""
        starts: dict[Slot, int] = {}
        place = 0
        for slot in self.slots:
            piece = [(each.source, each.layer) for each in wanted[place : place + len(slot.layers)]]
            if piece == [(slot.source, layer) for layer in slot.layers]:
                starts[slot] = place
                place += len(slot.layers)
        return starts if place == len(wanted) <= self.max_layers else None

    def _walk(self, point: Mapping[str, float | str]) -> list[Step]:
        steps: list[Step] = []
        room, empty = self.max_layers, True
        refused: set[tuple[str, int]] = set()
        for index, slot in enumerate(self.slots):
            possible = len(slot.layers) <= room and slot.block not in refused
            gated = possible and not (empty and self._is_last(index, refused))
            taken = _gate(slot, point) if gated else possible
            if taken:
                room, empty, refused = room - len(slot.layers), False, set()
            else:
                refused.add(slot.block)
            steps.append(Step(slot, gated, taken))
        return steps

    def _is_last(self, index: int, refused: set[tuple[str, int]]) -> bool:
        """Whether no slot behind this one could be taken if it is not."""
        return all(later.block in refused | {self.slots[index].block} for later in self.slots[index + 1 :])


def _gate(slot: Slot, point: Mapping[str, float | str]) -> bool:
    name = f"{GATE}{slot.name}"
    value = point.get(name)
    if value not in (0, 1):
        raise InputError(f"{name} must be 0 or 1, but got {value!r}")
    return bool(value)


@layer_space("stack")
def stack(
    num_layers: int,
    *,
    repeats: int = 2,
    stack_block: int | None = None,
    max_layers: int | None = None,
    stack_scale: float | Sequence[float] = (0.8, 1.2),
    sources: str | Sequence[str] = MERGED,
) -> Basis:
    """Layers repeated, dropped and reordered; numbers of the method hold for all layers.

    Args:
        num_layers: of each source.
        repeats: passes over the layers of all sources.
        stack_block: how many neighbouring layers share a gate; by default so many that a pass has at most 8 blocks.
        max_layers: of a candidate; by default no limit.
        stack_scale: bounds of the factor on the hidden states from one block into the next, or a fixed number.
        sources: whose layers a pass goes through: "merged", or a list of it and of names of the base and experts.

    Raises:
        InputError: an option is out of its range, or `sources` lacks "merged" or names one twice.
    """
    block = math.ceil(num_layers / BLOCKS) if stack_block is None else whole_number("stack_block", stack_block)
    room = (
        repeats * len(_sources(sources)) * num_layers if max_layers is None else whole_number("max_layers", max_layers)
    )
    for option, value, low in (("repeats", repeats, 1), ("stack_block", block, 1)):
        if value < low:
            raise InputError(f"space.{option} must be at least {low}, but got {value}")
    if room < num_layers:
        raise InputError(
            f"space.max_layers must be at least the model's number of layers ({num_layers}), but got {room}"
        )
    slots = tuple(
        Slot(source, number, range(start, min(start + block, num_layers)))
        for number in range(1, repeats + 1)
        for source in _sources(sources)
        for start in range(0, num_layers, block)
    )
    return replace(uniform(num_layers), stacking=Stacking(slots, _scale(stack_scale), room))


def _sources(setting: str | Sequence[str]) -> tuple[str, ...]:
    names = (setting,) if isinstance(setting, str) else tuple(setting) if isinstance(setting, list | tuple) else ()
    if MERGED not in names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"space.sources must be {MERGED} or a list of it and of models, each once, but got {setting!r}"
        )
    return names


def _scale(setting: object) -> tuple[float, float] | float:
    if isinstance(setting, list | tuple):
        if len(setting) == 2 and _allowed(setting[0]) and _allowed(setting[1]) and setting[0] < setting[1]:
            return float(setting[0]), float(setting[1])
    elif _allowed(setting):
        return float(setting)
    raise InputError(
        f"space.{SCALE} must be [low, high] with {LIMITS[0]:g} <= low < high <= {LIMITS[1]:g}, or a number in between, "
        f"but got {setting!r}"
    )


def _allowed(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and LIMITS[0] <= value <= LIMITS[1]
