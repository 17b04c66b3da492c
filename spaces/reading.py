"""What a recipe says in the terms of a space: its numbers layer by layer, for the space's groups of modules.

A space knows no names of parameters, so groups of modules are compared by their words: "attention", "mlp" and "other"
are told apart, and a regular expression equals itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.engine.recipe import Group, ParameterSpec, Recipe
from evomerge.errors import InputError
from evomerge.spaces.curve import CurveKey

KINDS = ("attention", "mlp", "other")
EVERYTHING = ("all", "other")
"""Groups that take whatever those before them left. (In a recipe "other" is a kind.)"""


class RecipeReader:
    """Reads the numbers of a recipe, and keeps what it could not read.

    Args:
        recipe: to read.
        template: a recipe of the space's: with the same method, and its experts.
        parameters: of the method.
        modules: the space's groups.
        num_layers: of the model.
        has_outside: whether the space has numbers of their own for what lies in no layer.

    Attributes:
        notes: sentences for the user, each once.
        rest: the group of modules that holds what lies in no layer, "" where that has numbers of its own.

    Raises:
        InputError: when the experts are others, or a group names layers that the model does not have.
    """

    def __init__(
        self,
        recipe: Recipe,
        template: Recipe,
        parameters: Sequence[ParameterSpec],
        modules: Sequence[str],
        num_layers: int,
        has_outside: bool,
    ) -> None:
        self.notes: dict[str, None] = {}
        self._recipe, self._template, self._num_layers = recipe, template, num_layers
        self._specs = {spec.name: spec for spec in parameters}
        self._kinds = kinds_of(modules)
        self.rest = "" if has_outside else next((each for each, kinds in self._kinds.items() if "other" in kinds), "")
        self._groups: dict[tuple[int | None, str, str], Group] = {}
        self._check()

    def over_depth(self, parameter: str, expert: str, modules: str) -> list[float]:
        """The number in each layer; the mean where the recipe's differs between what the space has one number for."""
        kinds = self._kinds[modules]
        found = [
            [self._number(parameter, expert, layer, kind, modules) for kind in kinds]
            for layer in range(self._num_layers)
        ]
        if any(min(each) != max(each) for each in found):
            self.note(
                f"{CurveKey(parameter, expert, modules).owner} differs between {' and '.join(kinds)}, the mean is taken"
            )
        return [each[0] + sum(other - each[0] for other in each) / len(each) for each in found]

    def outside(self, parameter: str, expert: str) -> float:
        """The number of what lies in no layer."""
        return self._number(parameter, expert, None, "other", self.rest)

    def everywhere(self, parameter: str) -> list[float]:
        """All numbers of a parameter: of each expert, in each layer and group of modules, and outside."""
        experts = [each.name for each in self._recipe.experts] if self._specs[parameter].per_expert else [""]
        inside = [
            self._number(parameter, expert, layer, kind, modules)
            for expert in experts
            for layer in range(self._num_layers)
            for modules, kinds in self._kinds.items()
            for kind in kinds
        ]
        return inside + [self.outside(parameter, expert) for expert in experts]

    def note(self, sentence: str) -> None:
        """Keep a sentence for the user."""
        self.notes[sentence] = None

    def compare_settings(self) -> None:
        """Note what holds for the whole recipe and is not the space's."""
        for name in dict.fromkeys(name for group in self._recipe.groups for name in group.parameters):
            if name not in self._specs:
                self.note(f"{name} is no parameter of {self._template.method}")
        for spec in self._specs.values():
            if spec.kind != "number":
                self._compare(
                    spec.name,
                    self._recipe.options.get(spec.name, spec.default),
                    self._template.options.get(spec.name, spec.default),
                )
        self._compare("base", self._recipe.base.name, self._template.base.name)
        for name in ("dtype", "tokenizer", "seed", "allow_nonfinite"):
            self._compare(name, getattr(self._recipe, name), getattr(self._template, name))

    def _compare(self, name: str, found: object, held: object) -> None:
        if found != held:
            self.note(f"{name} is {found} in the recipe, and {held} is taken")

    def _check(self) -> None:
        experts, known = ([each.name for each in recipe.experts] for recipe in (self._recipe, self._template))
        if sorted(experts) != sorted(known):
            raise InputError(f"the recipe's experts must be {', '.join(known)}, but are {', '.join(experts)}")
        if experts != known:
            self.note(f"the experts come in the order {', '.join(known)}, not {', '.join(experts)}")
        for group in self._recipe.groups:
            if isinstance(group.layers, tuple) and not 0 <= group.layers[0] < group.layers[1] <= self._num_layers:
                raise InputError(
                    f"layers of a group must be [start, stop) with 0 <= start < stop <= {self._num_layers}, "
                    f"but got {list(group.layers)}"
                )

    def _number(self, parameter: str, expert: str, layer: int | None, kind: str, modules: str) -> float:
        spec = self._specs[parameter]
        if (layer, kind, modules) not in self._groups:
            self._groups[layer, kind, modules] = self._first(layer, kind, modules)
        group = self._groups[layer, kind, modules]
        given = group.parameters.get(parameter, self._recipe.options.get(parameter, spec.default))
        number = given.get(expert) if isinstance(given, Mapping) else given
        if number is None:
            raise InputError(f"{parameter} must have a number for {expert or 'all experts'}, but got {given}")
        return float(number)

    def _first(self, layer: int | None, kind: str, modules: str) -> Group:
        for group in self._recipe.groups:
            in_layers = isinstance(group.layers, tuple) and layer is not None and layer in range(*group.layers)
            here = in_layers or group.layers == "all" or (group.layers == "outside" and layer is None)
            if here and self._holds(group.modules, kind, modules):
                return group
        place = "outside of layers" if layer is None else f"in layer {layer}"
        raise InputError(f"a group of the recipe must fit {kind} {place}, but none that can be compared does")

    def _holds(self, group: str, kind: str, modules: str) -> bool:
        """Whether a recipe's group of modules holds a kind of what the space has in its own group `modules`."""
        if group in ("all", kind):
            return True
        groups = list(self._kinds)
        earlier = groups[: groups.index(modules)] if modules in groups else []
        if group not in earlier and (group not in KINDS or kind not in KINDS):  # the space's own earlier group has it
            self.note(f"the numbers of {group!r} are not taken for {kind!r}: the space cannot compare the two")
        return False


def kinds_of(modules: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each of the space's groups of modules what it holds: of the three kinds those left to it, or itself."""
    left = list(KINDS)
    found: dict[str, tuple[str, ...]] = {}
    for group in modules:
        taken = left if group in EVERYTHING else [group]
        found[group] = tuple(taken)
        left = [kind for kind in left if kind not in taken]
    return found
