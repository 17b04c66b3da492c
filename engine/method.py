"""Merge methods: one decorated function each, whose signature is the schema of its parameters. No torch here.

    @merge_method(name="task_arithmetic", paper="arXiv:2212.04089")
    def task_arithmetic(statistics: ParameterStatistics, *, weight: Weight, lambda_: Lambda) -> Plan: ...

The first argument is the parameter's statistics; every other one is a parameter of the method, declared once by
an `Annotated` type that holds a `Number`, a `Switch` or a `Choice`. `tuple[float, ...]` means a number for each
expert. A trailing underscore is no part of the name: `lambda_` is "lambda".
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from evomerge.engine.plan import ParameterStatistics, Plan
from evomerge.engine.recipe import ParameterSpec
from evomerge.errors import InputError, unknown_name
from evomerge.registry import Registry

if TYPE_CHECKING:
    from evomerge.engine.recipe import Recipe

METHODS: Registry[MergeMethod]

Value = float | tuple[float, float]
"""A fixed number, or the bounds of a search."""


class Number(NamedTuple):
    """Declares a number: its default, its inclusive range, and the bounds a search uses by default."""

    default: float
    low: float
    high: float
    search: tuple[float, float] | None = None


class Switch(NamedTuple):
    """Declares a bool."""

    default: bool


class Choice(NamedTuple):
    """Declares one of several strings."""

    default: str
    choices: tuple[str, ...]


Weight = Annotated[tuple[float, ...], Number(1.0, low=-10.0, high=10.0, search=(0.0, 1.2))]
"""w_i of the methods on task vectors."""

Density = Annotated[tuple[float, ...], Number(1.0, low=0.0, high=1.0)]
"""The share of a task vector's elements that survive."""

Epsilon = Annotated[tuple[float, ...], Number(0.15, low=0.0, high=1.0)]
"""Half the width of the range of DELLA's probabilities."""

Gamma = Annotated[tuple[float, ...], Number(0.01, low=0.0, high=1.0)]
"""The share of a task vector's largest elements that are dropped."""

Lambda = Annotated[float, Number(1.0, low=-10.0, high=10.0)]
"""The factor of the merged task vector."""

Strength = Annotated[float, Number(1.0, low=-10.0, high=10.0, search=(0.0, 1.2))]
"""The same for methods without weights: what a search varies."""

Normalize = Annotated[bool, Switch(False)]
"""Whether the merged task vector is divided by the sum of the weights."""


@dataclass(frozen=True)
class MergeMethod:
    """One merge method.

    Attributes:
        name: as recipes and configurations write it.
        parameters: one specification for each parameter, in the order of the signature.
        paper: where the method comes from, such as "arXiv:2306.01708".
        function: from statistics and bound parameters to a plan.
        min_experts: the fewest experts it takes.
        max_experts: the most experts it takes; None: any number.
        ordered: whether the order of the experts matters.
        random: whether it draws random masks from the recipe's seed. (Ties at a trim threshold are settled by it, too.)
        ranked: whether it reads critical densities, which take 2 bytes an element and expert.
        neutral: numbers that give back the base exactly, whatever the other parameters are; empty: there are none.
        doc: the function's docstring.
    """

    name: str
    parameters: tuple[ParameterSpec, ...]
    paper: str
    function: Callable[..., Plan] = field(repr=False)
    min_experts: int = 1
    max_experts: int | None = None
    ordered: bool = False
    random: bool = False
    ranked: bool = False
    neutral: Mapping[str, float] = field(default_factory=lambda: {"weight": 0.0})
    doc: str = field(default="", repr=False)

    @property
    def purpose(self) -> str:
        """What it is for, in one line: the first of its documentation."""
        return self.doc.partition("\n")[0]

    @property
    def takes(self) -> str:
        """How many experts it takes, in words: "exactly 2 experts"."""
        low, high = self.min_experts, self.max_experts
        if high is None:
            return f"at least {low} expert{'s'[: low != 1]}"
        if low == high:
            return f"exactly {low} expert{'s'[: low != 1]}"
        return f"{low} to {high} experts"

    def parameter(self, name: str) -> ParameterSpec:
        """The specification of the parameter `name`. Raises InputError with the nearest name when there is none."""
        for spec in self.parameters:
            if spec.name == name:
                return spec
        raise unknown_name(f"a parameter of {self.name}", name, [spec.name for spec in self.parameters])

    def bind(
        self,
        numbers: Mapping[str, float | Mapping[str, float]],
        options: Mapping[str, bool | float | str],
        experts: Sequence[str],
    ) -> dict[str, Any]:
        """Values for all parameters: those of a group, else the recipe's option, else the default.

        Raises:
            InputError: a name is unknown, a value is out of its range, or a mapping leaves an expert out.
        """
        validate(self, numbers, options, experts)
        given = {**options, **numbers}
        return {spec.name: _spread(spec, given.get(spec.name, spec.default), experts) for spec in self.parameters}

    def plan(self, statistics: ParameterStatistics, values: Mapping[str, Any]) -> Plan:
        """The plan for one parameter, from its statistics and what `bind` returned."""
        return self.function(statistics, **{_argument(self.function, name): value for name, value in values.items()})


METHODS = Registry("merge method", "evomerge.engine.methods", "evomerge.methods")
"""All merge methods: the files of engine/methods, and the entry points of the group "evomerge.methods"."""


def merge_method(
    *,
    name: str,
    paper: str,
    min_experts: int = 1,
    max_experts: int | None = None,
    ordered: bool = False,
    random: bool = False,
    ranked: bool = False,
    neutral: Mapping[str, float] | None = None,
) -> Callable[[Callable[..., Plan]], MergeMethod]:
    """Register the decorated function as the merge method `name`; see `MergeMethod` for the arguments.

    Raises:
        TypeError: a parameter of the function declares no Number, Switch or Choice.
        ValueError: the name is taken.
    """

    def decorate(function: Callable[..., Plan]) -> MergeMethod:
        method = MergeMethod(
            name=name,
            parameters=_specifications(function),
            paper=paper,
            function=function,
            min_experts=min_experts,
            max_experts=max_experts,
            ordered=ordered,
            random=random,
            ranked=ranked,
            neutral={"weight": 0.0} if neutral is None else dict(neutral),
            doc=inspect.getdoc(function) or "",
        )
        METHODS.add(name, method)
        return method

    return decorate


def validate(
    method: MergeMethod,
    numbers: Mapping[str, Value | Mapping[str, Value]],
    options: Mapping[str, bool | float | str],
    experts: Sequence[str],
) -> None:
    """Check parameters against the method's signature, before anything is loaded.

    Args:
        method: the method.
        numbers: fixed values or (low, high) bounds by parameter name, or a mapping from each expert's name to such.
        options: switches and choices; a number here holds for all groups that do not name it.
        experts: the experts' names, in order.

    Raises:
        InputError: the method does not take so many experts, a name is unknown, or a value is out of its range.
    """
    if not method.min_experts <= len(experts) <= (method.max_experts or len(experts)):
        raise InputError(f"{method.name} must have {method.takes}, but got {len(experts)}: {', '.join(experts)}")
    for name, option in options.items():
        _check_option(method, method.parameter(name), option)
    for name, value in numbers.items():
        spec = method.parameter(name)
        if spec.kind != "number":
            raise InputError(f"{name} of {method.name} is a {spec.kind} and belongs to the options, but got {value!r}")
        for label, item in _items(method, spec, value, experts):
            for number in item if isinstance(item, tuple) else (item,):
                _check_number(method, spec, label, number)
            if isinstance(item, tuple) and not item[0] <= item[1]:
                raise InputError(f"{label} of {method.name} must have low <= high, but got {list(item)}")


def check_recipe(recipe: Recipe) -> MergeMethod:
    """The recipe's method, after its name, parameters and number of experts were checked.

    Raises:
        InputError: as `validate`.
    """
    method = METHODS.get(recipe.method)
    for group in recipe.groups:
        method.bind(group.parameters, recipe.options, [expert.name for expert in recipe.experts])
    return method


def _specifications(function: Callable[..., Plan]) -> tuple[ParameterSpec, ...]:
    hints = get_type_hints(function, include_extras=True)
    return tuple(
        _specification(function, argument, hints.get(argument))
        for argument in list(inspect.signature(function).parameters)[1:]
    )


def _specification(function: Callable[..., Plan], argument: str, hint: Any) -> ParameterSpec:
    name = argument.rstrip("_")
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    for mark in marks:
        if isinstance(mark, Number):
            per_expert = get_origin(kind) is tuple
            return ParameterSpec(name=name, kind="number", per_expert=per_expert, **mark._asdict())
        if isinstance(mark, Switch):
            return ParameterSpec(name=name, kind="switch", default=mark.default)
        if isinstance(mark, Choice):
            return ParameterSpec(name=name, kind="choice", default=mark.default, choices=mark.choices)
    raise TypeError(f"{argument} of {function.__name__} must declare a Number, a Switch or a Choice, but got {hint!r}")


@cache
def _argument(function: Callable[..., Plan], name: str) -> str:
    return name if name in inspect.signature(function).parameters else f"{name}_"


def _items(
    method: MergeMethod, spec: ParameterSpec, value: Value | Mapping[str, Value], experts: Sequence[str]
) -> list[tuple[str, Value]]:
    """(label, number or bounds) for each number that `value` gives."""
    if not isinstance(value, Mapping):
        return [(spec.name, value)]
    if not spec.per_expert:
        raise InputError(f"{spec.name} of {method.name} must be one number for all experts, but got {dict(value)!r}")
    for name in value:
        if name not in experts:
            raise unknown_name(f"an expert in {spec.name}", name, experts)
    for name in experts:
        if name not in value:
            raise InputError(f"{spec.name} must give a number for every expert, but lacks {name!r}")
    return [(f"{spec.name}[{name}]", item) for name, item in value.items()]


def _check_number(method: MergeMethod, spec: ParameterSpec, label: str, number: object) -> None:
    real = isinstance(number, int | float) and not isinstance(number, bool)
    if not (real and math.isfinite(float(number)) and spec.low <= float(number) <= spec.high):  # type: ignore[arg-type]
        raise InputError(f"{label} of {method.name} must lie in [{spec.low:g}, {spec.high:g}], but got {number!r}")


def _check_option(method: MergeMethod, spec: ParameterSpec, option: object) -> None:
    if spec.kind == "switch" and not isinstance(option, bool):
        raise InputError(f"{spec.name} of {method.name} must be true or false, but got {option!r}")
    if spec.kind == "choice" and option not in spec.choices:
        raise unknown_name(f"{spec.name} of {method.name}", str(option), spec.choices)
    if spec.kind == "number":
        _check_number(method, spec, spec.name, option)


def _spread(spec: ParameterSpec, value: Any, experts: Sequence[str]) -> Any:
    if spec.kind != "number":
        return value
    if not spec.per_expert:
        return float(value)
    return tuple(float(value[name] if isinstance(value, Mapping) else value) for name in experts)
