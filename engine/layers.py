"""Where a parameter lies: its decoder layer, its path inside it, and the recipe group that follows. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from evomerge.engine.patterns import compiled
from evomerge.engine.recipe import Group
from evomerge.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NORM = re.compile(r"norm|(^|_)ln(_|\d|$)", re.IGNORECASE)
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
MLP = re.compile(r"mlp|feed_?forward|ffn|moe|expert|^fc\d", re.IGNORECASE)
MODULES = ("attention", "mlp", "other")


class Place(NamedTuple):
    """Where one parameter lies.

    Attributes:
        layer: the index of its decoder layer; None outside of all.
        path: its name inside the layer; outside its whole name.
    """

    layer: int | None
    path: str

    @property
    def module(self) -> str:
        """ "attention", "mlp" or "other", from the first part of the path inside the layer.

        Outside of layers and for norms "other", whatever they stand in front of.
        """
        if self.layer is None:
            return "other"
        first = self.path.split(".", 1)[0]
        if NORM.search(first):
            return "other"
        if ATTENTION.search(first):
            return "attention"
        return "mlp" if MLP.search(first) else "other"


def find_layers(model: PreTrainedModel) -> tuple[str, int]:
    """The name of the decoder's layer list and its length.

    It is the one module list whose length is the text configuration's `num_hidden_layers`.

    Raises:
        InputError: there is no such list, or more than one.
    """
    from torch import nn

    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(count, int):
        raise InputError(f"the configuration of {type(model).__name__} must have num_hidden_layers, but has none")
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        found = f"has {', '.join(outer)}" if outer else "has none"
        raise InputError(
            f"{type(model).__name__} must have one module list of {count} decoder layers, its num_hidden_layers, "
            f"but {found}"
        )
    return outer[0], count


def place(name: str, layers: str) -> Place:
    """Where the parameter `name` lies, when `layers` is the name of the layer list."""
    match = re.fullmatch(rf"{re.escape(layers)}\.(\d+)\.(.+)", name)
    return Place(int(match[1]), match[2]) if match else Place(None, name)


def assign(groups: Sequence[Group], places: Mapping[str, Place], num_layers: int) -> dict[str, int]:
    """The position of the first group that fits each parameter, by the parameter's name.

    Args:
        groups: of a recipe.
        places: of all parameters, by name.
        num_layers: how many decoder layers there are.

    Raises:
        InputError: a group's layers or regular expression are wrong, or a parameter fits no group.
    """
    patterns = [_checked(group, num_layers) for group in groups]
    return {name: _first(name, where, groups, patterns) for name, where in places.items()}


def _checked(group: Group, num_layers: int) -> re.Pattern[str] | None:
    if isinstance(group.layers, tuple):
        start, stop = group.layers
        if not 0 <= start < stop <= num_layers:
            raise InputError(
                f"layers of a group must be [start, stop) with 0 <= start < stop <= {num_layers}, "
                f"but got {[start, stop]}"
            )
    if group.modules == "all" or group.modules in MODULES:
        return None
    try:
        return compiled(group.modules)
    except re.error as error:
        raise InputError(
            f"modules of a group must be all, {', '.join(MODULES)} or a regular expression, "
            f"but got {group.modules!r}: {error}"
        ) from None


def _first(name: str, where: Place, groups: Iterable[Group], patterns: Iterable[re.Pattern[str] | None]) -> int:
    for position, (group, pattern) in enumerate(zip(groups, patterns, strict=True)):
        if _layer_fits(group, where) and _module_fits(group, pattern, where):
            return position
    inside = "outside of layers" if where.layer is None else f"in layer {where.layer}"
    raise InputError(f"every parameter must fit a group of the recipe, but {name} ({inside}, {where.module}) fits none")


def _layer_fits(group: Group, where: Place) -> bool:
    if isinstance(group.layers, tuple):
        return where.layer is not None and group.layers[0] <= where.layer < group.layers[1]
    return group.layers == "all" or where.layer is None


def _module_fits(group: Group, pattern: re.Pattern[str] | None, where: Place) -> bool:
    if pattern is not None:
        return pattern.search(where.path) is not None
    return group.modules in ("all", where.module)
