"""Recipes written into a live model, in place: one pass over the sources for each candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.compatibility import check_config, check_tokenizer
from evomerge.engine.kernels import kernel
from evomerge.engine.layers import assign
from evomerge.engine.layout import Slot, layout_of
from evomerge.engine.method import METHODS, check_recipe
from evomerge.engine.model import DTYPES, choose_device, live_model
from evomerge.engine.plan import Plan
from evomerge.engine.random_bits import Key
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.engine.sources import CheckpointSources
from evomerge.engine.statistics import BASE, Statistics
from evomerge.errors import CandidateError, InputError, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
R = TypeVar("R")

SEGMENT = 2**22
"""Elements of a parameter that one thread handles at a time."""


class Work(NamedTuple):
    """What is to be done for one parameter.

    Attributes:
        slot: the parameter.
        plan: its kernel and numbers, for the experts in `sources`.
        sources: the places of base and experts among the merger's sources.
        keys: of the experts' random words.
    """

    slot: Slot
    plan: Plan
    sources: tuple[int, ...]
    keys: tuple[Key, ...]


class Merger:
    """A live model that any number of recipes over the same base and experts can be written into, one at a time.

    The model is in eval mode and needs no gradients. It holds the base until the first `apply`. Its buffers are
    the base's, and stay so.

    Args:
        base: gives architecture, tokenizer and buffers.
        experts: recipes may use all or some of them.
        dtype: of the model: "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda" or "cuda:i".

    Attributes:
        model: the live model.
        tokenizer: the base's.
        num_layers: the number of its decoder layers.
        experts: the experts' names.

    Raises:
        InputError: a checkpoint is wrong, or does not fit the base.
    """

    def __init__(
        self, base: ModelRef, experts: Sequence[ModelRef], dtype: str = "bfloat16", device: str = "auto"
    ) -> None:
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        self._refs = {expert.name: expert for expert in experts}
        if len(self._refs) < len(experts):
            raise InputError(f"experts must have unique names, but got {', '.join(expert.name for expert in experts)}")
        self._base, self._dtype, self._device = base, dtype, choose_device(device)
        origin, opened = open_checkpoint(base), [open_checkpoint(expert) for expert in experts]
        for expert in opened:
            check_config(origin, expert)
            check_tokenizer(origin, expert)
        self.model: PreTrainedModel = live_model(origin, dtype, self._device)
        self._layout = layout_of(self.model)
        self._sources = CheckpointSources(origin, opened, self._layout, self._device)
        self._statistics = Statistics(self._sources)
        self.tokenizer: PreTrainedTokenizerBase = origin.tokenizer()
        self.num_layers = self._layout.num_layers
        self.experts = tuple(self._refs)

    def apply(self, recipe: Recipe) -> None:
        """Write the recipe's candidate into the live model, in place.

        Arithmetic is float32 and is rounded once, into each live parameter's dtype. The result depends on the
        recipe and the checkpoints alone: not on the number of threads, nor on what was applied before.

        Raises:
            InputError: the recipe names other models than the merger's, or parameters that its method lacks.
            CandidateError: a weight is not finite. The model is unusable until the next `apply`.
        """
        self.check(recipe)
        self._write(self._plans(recipe))

    def check(self, recipe: Recipe) -> None:
        """Raise the InputError that `apply` would, without writing anything."""
        check_recipe(recipe)
        self._check_models(recipe)
        self._groups(recipe)

    def _check_models(self, recipe: Recipe) -> None:
        if recipe.base != self._base:
            raise InputError(
                f"a recipe must have the merger's base {self._base.model!r}, but has {recipe.base.model!r}"
            )
        if recipe.dtype != self._dtype:
            raise InputError(f"a recipe must have the merger's dtype {self._dtype}, but has {recipe.dtype}")
        for expert in recipe.experts:
            if expert.name not in self._refs:
                raise unknown_name("an expert of a recipe", expert.name, self._refs)
            if expert != self._refs[expert.name]:
                raise InputError(f"expert {expert.name!r} must be the merger's, but is {expert.model!r}")

    def _groups(self, recipe: Recipe) -> dict[str, int]:
        return assign(recipe.groups, {slot.name: slot.place for slot in self._layout.slots}, self.num_layers)

    def _plans(self, recipe: Recipe) -> list[Work]:
        method, group_of = METHODS.get(recipe.method), self._groups(recipe)
        names = [expert.name for expert in recipe.experts]
        experts = tuple(self.experts.index(name) for name in names)
        sources = (BASE, *(expert + 1 for expert in experts))
        values = [method.bind(group.parameters, recipe.options, names) for group in recipe.groups]

        def one(slot: Slot) -> Work:
            statistics = self._statistics.of(slot.name, experts, recipe.seed)
            plan = method.plan(statistics, values[group_of[slot.name]])
            return Work(slot, plan, sources, tuple(statistics.key(i) for i in range(len(experts))))

        largest_first = sorted(self._layout.slots, key=lambda slot: -slot.live.numel())
        return self._in_parallel(one, largest_first)

    def _write(self, works: Sequence[Work]) -> None:
        tasks = [(work, segment) for work in works for segment in self._segments(work.slot.live)]
        peaks = self._in_parallel(lambda task: self._write_segment(*task), tasks)
        finite = torch.stack(peaks).isfinite().tolist() if peaks else []
        bad = {work.slot.name for (work, _), good in zip(tasks, finite, strict=True) if not good}
        for slot in self._layout.slots:
            if slot.name in bad:
                raise CandidateError(f"weights must be finite in {self._dtype}, but {slot.name} holds NaN or infinity")

    def _segments(self, live: torch.Tensor) -> Iterator[range]:
        step = SEGMENT if self._device.type == "cpu" and live.is_contiguous() else live.numel()
        for start in range(0, live.numel(), max(step, 1)):
            yield range(start, min(start + step, live.numel()))

    def _write_segment(self, work: Work, segment: range) -> torch.Tensor:
        """Write one segment; returns its largest magnitude, float32 and 0-d, after rounding to the live dtype."""
        live = work.slot.live
        flat = live.view(-1) if live.is_contiguous() else live.new_empty(live.numel())
        sources, run = kernel(work.plan, work.keys)
        flats = [self._sources.flat(work.sources[source], work.slot.name) for source in sources]
        peaks = []
        for start in segment[:: self._sources.chunk]:
            span = slice(start, min(start + self._sources.chunk, segment.stop))
            result = run([source[span].float() for source in flats], start)
            flat[span].copy_(result)
            peaks.append(result.abs_().amax())
        if not live.is_contiguous():
            live.copy_(flat.view(live.shape))
        return torch.stack(peaks).amax().to(live.dtype).float()

    def _in_parallel(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The results in order. On CPU one thread for each of torch's, since each works on single-threaded chunks."""
        if self._device.type != "cpu" or torch.get_num_threads() == 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(do, items))


def merge(recipe: Recipe, device: str = "auto") -> PreTrainedModel:
    """The live model of one recipe. Raises InputError and CandidateError as `Merger` and `Merger.apply` do."""
    merger = Merger(recipe.base, recipe.experts, recipe.dtype, device)
    merger.apply(recipe)
    return merger.model
