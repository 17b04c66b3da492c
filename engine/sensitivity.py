"""How a function of the live model changes with a recipe's numbers: the chain rule through the merge.

For a loss L and a number c of one group, dL/dc is the sum over the group's parameters W of <dL/dW, dW/dc>. A hook on
each live parameter reduces its gradient to such products as soon as a backward pass has it, and lets go of it, so that
no second copy of the model is held.

dW/dc of a linear combination c_0 b + sum_i c_i x_i follows from the plan alone: the products <dL/dW, x_i - b> are taken
once, and the derivatives of the c_i are central differences in float64. Any other plan is carried out twice, in
float32, with the number a little higher and a little lower. Where what is kept changes in steps (a trim, a vote on
signs), this is the mean slope over the distance of the two, which is what a search can follow.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from evomerge.engine.arena import Arena
from evomerge.engine.derived import Derived
from evomerge.engine.execute import Run, merge_rows, pieces_of
from evomerge.engine.kernels import Prepared, Source, prepare
from evomerge.engine.materialize import Merger
from evomerge.engine.method import METHODS, MergeMethod
from evomerge.engine.plan import Array, Combination, Plan
from evomerge.engine.recipe import ParameterSpec, Recipe
from evomerge.engine.statistics import OneParameter
from evomerge.engine.store import BASE

Slopes = list[dict[tuple[str, str], float]]
"""For each group of a recipe the derivative by (parameter, expert); "" where a number is for all experts."""

FINE = 1e-4
"""Half the distance of the numbers between which the coefficients of a linear combination are compared, relative to
the bounds that a search uses by default."""

COARSE = 1e-2
"""The same for kernels: a float32 weight has seven digits, of which a task vector takes up some three."""

CPU_CHUNK = 2**17  # elements whose products are taken at a time: what stays in a core's cache ...
CHUNK = 2**24  # ... and elsewhere
PIECE = 2**24  # elements that are merged at a time

NEGLIGIBLE = 1e-9  # a coefficient's derivative relative to the largest: rounding


class View(NamedTuple):
    """A parameter as files hold it, in the memory of a live one: strides and offset count elements."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Number(NamedTuple):
    """One number of a group: the parameter's specification and the expert's name and place ("" and 0 for all)."""

    spec: ParameterSpec
    expert: str
    place: int

    @property
    def key(self) -> tuple[str, str]:
        """How `Slopes` name it."""
        return self.spec.name, self.expert

    @property
    def width(self) -> float:
        """Of the bounds that a search uses by default; else of its range, at most 1."""
        low, high = self.spec.search or (self.spec.low, self.spec.high)
        return high - low if self.spec.search else min(high - low, 1.0)

    def moved(self, values: Mapping[str, Any], distance: float) -> tuple[dict[str, Any], float]:
        """The group's values with this one moved as far as its range allows, and by how much."""
        held = values[self.spec.name]
        old = held[self.place] if self.spec.per_expert else held
        new = min(max(old + distance, self.spec.low), self.spec.high)
        if not self.spec.per_expert:
            return {**values, self.spec.name: new}, new - old
        changed = (*held[: self.place], new, *held[self.place + 1 :])
        return {**values, self.spec.name: changed}, new - old


class Change(NamedTuple):
    """Two plans around a recipe's, and the difference between their numbers."""

    high: Plan
    low: Plan
    distance: float


@contextmanager
def slopes_of(merger: Merger, recipe: Recipe, parameters: Collection[str] | None = None) -> Iterator[Slopes]:
    """Within the block, each backward pass through the live model adds to the slopes that the block is given.

    The live model's parameters require gradients within the block and not after it; their `grad` stays None.

    Args:
        merger: whose live model holds the recipe's candidate.
        recipe: as it was applied.
        parameters: of the method, whose numbers count; None: all that are numbers.

    Yields:
        The slopes, one mapping a group, all 0 to begin with. Layers that a stack takes from another source than
        "merged" have no part in them.

    Raises:
        InputError: the recipe is none of the merger's.
    """
    merger.check(recipe)
    watch = _Watch(merger, recipe, parameters)
    handles = []
    watched = watch.views
    try:
        for parameter, views in watched:
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(_hook(watch, views)))  # type: ignore[no-untyped-call]
        yield watch.slopes
    finally:
        for handle in handles:
            handle.remove()
        for parameter, _ in watched:
            parameter.requires_grad_(False)
            parameter.grad = None


def _hook(watch: _Watch, views: list[View]) -> Any:
    def reduce(parameter: torch.Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        gradient = gradient.contiguous()
        for view in views:
            watch.add(view.name, gradient.as_strided(view.size, view.stride, view.offset).reshape(-1))

    return reduce


class _Watch:
    """The slopes of one recipe, as gradients come in; any thread may bring one."""

    def __init__(self, merger: Merger, recipe: Recipe, parameters: Collection[str] | None) -> None:
        method = METHODS.get(recipe.method)
        names = [expert.name for expert in recipe.experts]
        self._numbers = [
            Number(spec, expert, place)
            for spec in method.parameters
            if spec.kind == "number" and (parameters is None or spec.name in parameters)
            for place, expert in enumerate(names if spec.per_expert else [""])
        ]
        self.slopes: Slopes = [dict.fromkeys((n.key for n in self._numbers), 0.0) for _ in recipe.groups]
        self.views = list(_views(merger))
        self._group_of = merger._groups(recipe)
        self._values = [method.bind(group.parameters, recipe.options, names) for group in recipe.groups]
        self._method, self._merger, self._recipe = method, merger, recipe
        self._experts = merger._places(recipe)
        self._lock = threading.Lock()

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """Add the share of one parameter, whose gradient is flat, in the order of its elements."""
        group = self._group_of[name]
        statistics = self._merger._statistics.of(name, self._experts, self._recipe.seed)
        one = _OneParameter(self._merger, name, self._experts, gradient)
        linear: dict[tuple[str, str], Combination] = {}
        found: dict[tuple[str, str], float] = {}
        for number in self._numbers:
            change = _change(self._method, statistics, self._values[group], number, FINE)
            if isinstance(change.high, Combination) and isinstance(change.low, Combination):
                linear[number.key] = _derivative(change)
                continue
            change = _change(self._method, statistics, self._values[group], number, COARSE)
            found[number.key] = one.across(change, statistics, self._recipe.seed)
        found |= one.along(linear)
        with self._lock:
            for key, slope in found.items():
                self.slopes[group][key] += slope


def _change(
    method: MergeMethod, statistics: OneParameter, values: Mapping[str, Any], number: Number, step: float
) -> Change:
    step *= number.width
    (above, up), (below, down) = number.moved(values, step), number.moved(values, -step)
    return Change(method.plan(statistics, above), method.plan(statistics, below), up - down)


def _derivative(change: Change) -> Combination:
    """The derivatives of the coefficients."""
    high, low = change.high, change.low
    experts = tuple((a - b) / change.distance for a, b in zip(high.experts, low.experts, strict=True))
    return Combination((high.base - low.base) / change.distance, experts)


@dataclass(frozen=True)
class _OneParameter:
    """The products of one parameter's gradient, 1-D, with what its sources hold."""

    merger: Merger
    name: str
    experts: tuple[int, ...]
    gradient: torch.Tensor

    def along(self, changes: Mapping[tuple[str, str], Combination]) -> dict[tuple[str, str], float]:
        """<gradient, change> of changes in direction of the sources, each product of which is taken once."""
        directions = {key: _directions(change) for key, change in changes.items()}
        by_row = any(part.ndim for parts in directions.values() for part in parts)
        needed = {place for parts in directions.values() for place, part in enumerate(parts) if part.any()}
        products = {place: self._product(place, by_row) for place in sorted(needed)}
        return {
            key: float(sum((part * products[place]).sum() for place, part in enumerate(parts) if part.any()))
            for key, parts in directions.items()
        }

    def _product(self, place: int, by_row: bool) -> Array:
        """<gradient, b> for place 0, <gradient, x_i - b> for place i; of each of the parameter's rows, or in all."""
        store = self.merger._store
        _, segment = store.segments[self.name]
        step = CPU_CHUNK if self.gradient.device.type == "cpu" else CHUNK
        step = max(step // segment.columns, 1) * segment.columns if by_row else step
        found = []
        for start in range(0, segment.numel, step):
            stop = min(start + step, segment.numel)
            direction = store.flat(self.name, BASE, start, stop).float()
            if place:
                direction = store.flat(self.name, self.experts[place - 1] + 1, start, stop).float() - direction
            gradient = self.gradient[start:stop].float()
            if by_row:
                found.append((direction * gradient).view(-1, segment.columns).sum(1).double())
            else:
                found.append(torch.dot(direction, gradient).double()[None])
        products = torch.cat(found).cpu().numpy()
        return np.asarray(products if by_row else products.sum())

    def across(self, change: Change, statistics: OneParameter, seed: int) -> float:
        """<gradient, (high - low) / distance>, each plan carried out in float32."""
        arena, segment = self.merger._store.segments[self.name]
        works = [prepare(plan, statistics.keys(), seed) for plan in (change.high, change.low)]
        runs = [self._run(work) for work in works]
        by_row = any(work.form.by_row for work in works)  # then one piece: the two may have to be cut differently
        total = torch.zeros((), dtype=torch.float64, device=self.gradient.device)
        for start, stop in pieces_of(arena, runs[0], arena.numel if by_row else PIECE):
            high, low = (self._merged(run, start, stop) for run in runs)
            begin = (start - segment.first) * arena.kind.width
            gradient = self.gradient[begin : begin + high.numel()].float()
            total += torch.dot((high - low).view(-1)[: gradient.numel()], gradient)
        return float(total) / change.distance

    def _run(self, work: Prepared) -> Run:
        arena, segment = self.merger._store.segments[self.name]
        position = arena.segments.index(segment)
        return Run(work.form, position, position + 1, [work.entry])

    def _merged(self, run: Run, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the arena as the run makes them: float32."""
        arena, _ = self.merger._store.segments[self.name]
        out = torch.zeros(stop - start, arena.kind.width, device=arena.kind.device)
        chunks = [self._fetch(arena, source, start, stop) for source in run.form.sources]
        merge_rows(arena, run, start, stop, chunks, out, self.merger._launcher)
        return out

    def _fetch(self, arena: Arena, source: Source, start: int, stop: int) -> torch.Tensor:
        """Rows of a source; derived ones that the merger does not hold are computed for these rows alone."""
        if isinstance(source, int):
            return self.merger._store.rows(arena, self.experts[source - 1] + 1 if source else BASE, start, stop)
        own = source._replace(expert=self.experts[source.expert - 1] + 1)
        held = self.merger._derived._kept.get((id(arena), own.expert))
        derived = self.merger._derived if held and held[0] == own else Derived(self.merger._store, keep=False)
        return derived.fetch(arena, own, start, stop)


def _directions(change: Combination) -> list[Array]:
    """A combination of sources as one of the base and the task vectors: x_i = b + d_i."""
    experts = [np.asarray(each, dtype=np.float64) for each in change.experts]
    parts = [np.asarray(sum(experts, start=np.asarray(change.base, dtype=np.float64))), *experts]
    largest = max(float(np.abs(part).max()) for part in parts)
    return [np.where(np.abs(part) > NEGLIGIBLE * largest, part, 0.0) for part in parts]


def _views(merger: Merger) -> Iterator[tuple[torch.nn.Parameter, list[View]]]:
    """Each live parameter that merges write, and the parameters of files that it consists of."""
    live = merger._live
    arenas = {_storage(out): (arena, out) for arena, out in zip(live.arenas, live.outs, strict=True)}
    own = {name: view for name, view in live.views().items() if name in live._own} if live._own else {}
    for parameter in merger.model.parameters():
        arena, out = arenas.get(_storage(parameter), (None, None))
        if arena is None or out is None:
            views = [
                View(name, tuple(view.shape), view.stride(), int(view.storage_offset() - parameter.storage_offset()))
                for name, view in own.items()
                if _storage(view) == _storage(parameter)
            ]
        else:
            begin = int(parameter.storage_offset())
            places = [(segment, segment.first * arena.kind.width - begin) for segment in arena.segments]
            views = [
                View(segment.name, (segment.numel,), (1,), at)
                for segment, at in places
                if 0 <= at < max(parameter.numel(), 1)
            ]
        if views:
            yield parameter, views


def _storage(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
