"""The element-wise kernels, written once in plain PyTorch, and the numbers that they take from plans.

A form is a kernel without its numbers: plans of equal form run together, over any number of parameters at once.
Parameters lie in rows of `width` elements (`evomerge.engine.arena`), and every number is one for each row. Eager
or compiled, on any device and in chunks of any size, the results have the same bits: all arithmetic is float32,
each product is rounded before it is added, and nothing depends on more than the element and its row.

The kernels of the built-in plans are the files of `evomerge.engine.forms`.

Notation: r rows, w their width, n experts.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch

from evomerge.engine.plan import Array, Plan
from evomerge.engine.random_bits import Keys


class Critical(NamedTuple):
    """A derived source: the critical densities of an expert's task vector, int16 (`evomerge.engine.della`).

    Attributes:
        expert: the expert's place among the sources.
        epsilon: half the width of the range of probabilities.
        seed: of the recipe.
    """

    expert: int
    epsilon: float
    seed: int


Source = int | Critical
"""0 is the base, i the recipe's expert number i - 1; or a source derived from these."""


class Rows(NamedTuple):
    """Where the rows of a chunk lie in their parameters.

    Attributes:
        parameter: int64 [r]; the position of the row's entry in the table of numbers.
        number: int64 [r]; the row's number in its parameter.
        width: elements a row.
    """

    parameter: torch.Tensor
    number: torch.Tensor
    width: int


class Form(Protocol):
    """A kernel without its numbers; equal forms run together."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """What it reads, in order. Nothing else has an influence on the result."""

    @property
    def signature(self) -> object:
        """Equal for forms whose bodies are the same, whichever sources they are given."""

    @property
    def by_row(self) -> bool:
        """Whether it works on the parameter's own rows (of its last axis) instead of the arena's."""

    def numbers(self, table: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, ...]:
        """What the body needs, each [r, any], one row for each row, from a table [p, k] with an entry a parameter."""

    def body(self, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> torch.Tensor:
        """From a chunk [r, w] of each source to the result, float32 [r, w], in memory of its own."""


class Prepared(NamedTuple):
    """A plan made ready to run.

    Attributes:
        form: its kernel.
        entry: its numbers, k of them: float64 [k], or [rows, k] where the kernel works on the parameter's own rows.
    """

    form: Form
    entry: Array


KERNELS: dict[type, Callable[[Any, Keys, int], Prepared]] = {}


def kernel_of(plan: type) -> Callable[[Callable[[Any, Keys, int], Prepared]], Callable[[Any, Keys, int], Prepared]]:
    """Register the decorated function, from (plan, keys, seed) to `Prepared`, as the kernel of a type of plans."""

    def register(function: Callable[[Any, Keys, int], Prepared]) -> Callable[[Any, Keys, int], Prepared]:
        KERNELS[plan] = function
        return function

    return register


def prepare(plan: Plan, keys: Keys, seed: int) -> Prepared:
    """The kernel of a plan and its numbers. Raises KeyError when no kernel is registered for its type."""
    _load()
    return KERNELS[type(plan)](plan, keys, seed)


@cache
def _load() -> None:
    package = importlib.import_module("evomerge.engine.forms")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
