"""Recipes written into a live model, in place: one pass over the sources for each candidate."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from evomerge.engine.alignment import align
from evomerge.engine.arena import Arena
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.commons import Commons, common_plan
from evomerge.engine.compiled import Launcher
from evomerge.engine.derived import Derived
from evomerge.engine.execute import PIECE, Fetch, Run, carry_out, merge_rows, pieces_of
from evomerge.engine.exhaustion import within_memory
from evomerge.engine.export import Contents, contents_of
from evomerge.engine.kernels import Prepared, Source, prepare
from evomerge.engine.layers import assign
from evomerge.engine.layout import Slot, checkpoint_tensors
from evomerge.engine.live import LiveModel
from evomerge.engine.memory import plan_memory
from evomerge.engine.method import METHODS, check_recipe
from evomerge.engine.model import DTYPES, choose_devices
from evomerge.engine.plan import copy_base
from evomerge.engine.random_bits import Keys, random_key
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.engine.stack import Restacker
from evomerge.engine.statistics import Statistics
from evomerge.engine.store import BASE, Store
from evomerge.engine.writer import TensorSpec, split
from evomerge.errors import CandidateError, InputError, unknown_name
from evomerge.sizes import readable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
R = TypeVar("R")

SURE = 1e18
"""Sources whose weights are all smaller give finite candidates in float32 and bfloat16, whatever the recipe."""


class Sources:
    """A base and experts brought together, and what recipes over them need: shared by all ways to merge them.

    Args:
        base: gives architecture and buffers.
        experts: recipes may use all or some of them.
        dtype: of the candidate: "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda", "cuda:i", or "balanced" for all GPUs together.
        tokenizer: whose vocabulary the candidate has: "base", "union" or an expert's name.
        memory_limit: of the memory on the host of this process, or of all workers together, in bytes; None: what is
            free.
        allow_nonfinite: whether sources may hold NaN or infinite weights.
        tell: told of the rules that were applied and of the memory plan, line by line, before weights are read.
        launcher: runs the kernels; by default one that compiles what is used often.
        methods: the methods of the recipes to come, as far as known; the memory plan counts what they keep.
        load: whether weights are read at once; otherwise `load` does it, after cheaper checks.
        shared: a folder, which need not exist yet. Processes of this host that name the same one share sources in the
            host's memory and statistics of the same models: the first reads them, the others map them
            (docs/memory.md). None: every process has its own.
        workers: how many processes of this host merge these models; the memory plan counts them all.
        on_gpu: how many of them use the same GPU as this one; None: they take GPUs in turns.

    Attributes:
        tokenizer: the one asked for.
        num_layers: the number of the base's decoder layers.
        experts: the experts' names.
        memory: what is kept where.
        notes: rules that were applied to bring the models together, one line each.

    Raises:
        InputError: a checkpoint is wrong, or does not fit the base; the candidate does not fit into memory; or a
            source's weights are not finite.
    """

    _in_memory = True

    def __init__(
        self,
        base: ModelRef,
        experts: Sequence[ModelRef],
        dtype: str = "bfloat16",
        device: str = "auto",
        *,
        tokenizer: str = "base",
        memory_limit: int | None = None,
        allow_nonfinite: bool = False,
        tell: Callable[[str], None] = lambda line: None,
        launcher: Launcher | None = None,
        methods: Sequence[str] = (),
        load: bool = True,
        shared: Path | None = None,
        workers: int = 1,
        on_gpu: int | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        if workers < 1:
            raise InputError(f"workers must be at least 1, but got {workers}")
        self._refs = {expert.name: expert for expert in experts}
        if len(self._refs) < len(experts):
            raise InputError(f"experts must have unique names, but got {', '.join(expert.name for expert in experts)}")
        self._base, self._dtype, self._vocabulary = base, dtype, tokenizer
        self._allow_nonfinite = allow_nonfinite
        self._launcher = launcher or Launcher(finite=not allow_nonfinite)
        alignment = align(open_checkpoint(base), [open_checkpoint(expert) for expert in experts], tokenizer)
        self._live = LiveModel(alignment, DTYPES[dtype], choose_devices(device, alignment, dtype))
        self.tokenizer: PreTrainedTokenizerBase = alignment.tokenizer
        self.num_layers = self._live.layout.num_layers
        self.experts = tuple(self._refs)
        self.notes = alignment.notes
        self._ranked = any(METHODS.get(method).ranked for method in methods)
        self._readings, self._tell = alignment.readings, tell
        self._commons = None if shared is None else Commons(shared, alignment, self._live.arenas, tokenizer, tell)
        plan = partial(
            plan_memory,
            self._live.arenas,
            (base.name, *self._refs),
            limit=memory_limit,
            in_memory=self._in_memory,
            ranked=self._ranked,
        )
        self.memory = common_plan(plan, self._live.arenas, self._commons, workers, on_gpu)
        if load:
            self.load()

    def load(self) -> None:
        """Tell what is kept where, then read the weights.

        Raises:
            InputError: a file cannot be read, weights are not finite, or memory ran out.
        """
        for line in (*self.notes, *self.memory.lines()):
            self._tell(line)
        rule = f"memory must hold what the plan says ({readable(self.memory.host)})"
        within_memory(self._load, lambda: None, InputError, rule)

    def _load(self) -> None:
        if self._in_memory:
            self._live.allocate()
        commons = self._commons if self.memory.shares else None
        self._store = Store(
            self._live.arenas,
            self._readings,
            (self._base.name, *self._refs),
            self.memory.tiers,
            stage=self.memory.stage,
            allow_nonfinite=self._allow_nonfinite,
            sharing=commons.sharing if commons else None,
        )
        if commons is not None:
            commons.check()
        self._statistics = Statistics(self._store, commons.shelf() if commons else None)
        self._derived = Derived(self._store, keep=self._in_one_piece)
        self._planned: set[tuple[str, tuple[int, ...]]] = set()

    def check(self, recipe: Recipe) -> None:
        """Raise InputError unless the recipe can be merged from these sources; writes nothing."""
        check_recipe(recipe)
        self._check_models(recipe)
        self._groups(recipe)

    def _check_models(self, recipe: Recipe) -> None:
        if recipe.base != self._base:
            raise InputError(
                f"a recipe must have the merger's base {self._base.model!r}, but has {recipe.base.model!r}"
            )
        for key, ours in (
            ("dtype", self._dtype),
            ("tokenizer", self._vocabulary),
            ("allow_nonfinite", self._allow_nonfinite),
        ):
            if getattr(recipe, key) != ours:
                raise InputError(f"a recipe must have the merger's {key} {ours}, but has {getattr(recipe, key)}")
        for expert in recipe.experts:
            if expert.name not in self._refs:
                raise unknown_name("an expert of a recipe", expert.name, self._refs)
            if expert != self._refs[expert.name]:
                raise InputError(f"expert {expert.name!r} must be the merger's, but is {expert.model!r}")

    def _places(self, recipe: Recipe) -> tuple[int, ...]:
        """The places of a recipe's experts among the merger's."""
        return tuple(self.experts.index(expert.name) for expert in recipe.experts)

    def _groups(self, recipe: Recipe) -> dict[str, int]:
        return assign(recipe.groups, {slot.name: slot.place for slot in self._slots}, self.num_layers)

    @property
    def _slots(self) -> tuple[Slot, ...]:
        return self._live.layout.slots

    def _works(self, recipe: Recipe, experts: tuple[int, ...]) -> dict[str, Prepared]:
        """A plan for each parameter; those that need statistics not yet taken share the threads."""
        method, group_of = METHODS.get(recipe.method), self._groups(recipe)
        names = [expert.name for expert in recipe.experts]
        values = [method.bind(group.parameters, recipe.options, names) for group in recipe.groups]

        def one(slot: Slot) -> Prepared:
            statistics = self._statistics.of(slot.name, experts, recipe.seed)
            return prepare(method.plan(statistics, values[group_of[slot.name]]), statistics.keys(), recipe.seed)

        taken = (recipe.method, experts)
        if taken in self._planned and not self._looks_again:  # every statistic is at hand
            return {slot.name: one(slot) for slot in self._slots}
        self._planned.add(taken)
        slots = self._in_turn()
        return dict(zip((slot.name for slot in slots), self._in_parallel(one, slots), strict=True))

    def _in_turn(self) -> list[Slot]:
        """The slots, largest first, so that threads end together; where processes share what they compute, each has
        an order of its own, so that they compute different things."""
        slots = sorted(self._slots, key=lambda slot: -slot.live.numel())
        if self.memory.shares:
            random.Random(os.getpid()).shuffle(slots)
        return slots

    @property
    def _looks_again(self) -> bool:
        """Whether thresholds may need another look at the weights: so it is where any are in float32."""
        return any(max(dtype.itemsize for dtype in arena.kind.dtypes) > 2 for arena in self._live.arenas)

    def _fetch(self, sources: Sequence[int]) -> Fetch:
        """Gives rows of a recipe's sources, whose places in the store are `sources`."""

        def fetch(arena: Arena, source: Source, start: int, stop: int) -> torch.Tensor:
            own = sources[source] if isinstance(source, int) else source._replace(expert=sources[source.expert])
            return self._derived.fetch(arena, own, start, stop)

        return fetch

    @property
    def _in_one_piece(self) -> bool:
        """Whether everything that methods read is kept, so that all of it is at hand at once."""
        return "disk" not in self.memory.tiers and (self.memory.keeps_densities or not self._ranked)

    @property
    def _surely_finite(self) -> bool:
        """Whether no candidate can hold NaN or infinity, as long as its sources do not."""
        return self._dtype != "float16" and self._store.largest < SURE

    def _in_parallel(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """The results in order. On CPU one thread for each of torch's, since each works on single-threaded chunks."""
        if self._live.arenas[0].kind.device.type != "cpu" or torch.get_num_threads() == 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return list(pool.map(do, items))


class Merger(Sources):
    """A live model that any number of recipes over the same base and experts can be written into, one at a time.

    The model is in eval mode and needs no gradients. It holds the base until the first `apply`. Its buffers are
    the base's, and stay so. Arguments, attributes and errors are those of `Sources`, and

    Attributes:
        model: the live model.
    """

    def __init__(self, base: ModelRef, experts: Sequence[ModelRef], *args: Any, **kwargs: Any) -> None:
        load = kwargs.pop("load", True)
        super().__init__(base, experts, *args, load=False, **kwargs)
        self.model: PreTrainedModel = self._live.model
        self._restacker = Restacker(self.model)
        if load:
            self.load()

    def _load(self) -> None:
        """As in `Sources`; then the model holds the base."""
        super()._load()
        keys = Keys(random_key(0, "", ""), ())
        self._carry_out({slot.name: prepare(copy_base(0), keys, 0) for slot in self._slots}, (BASE,))

    def apply(self, recipe: Recipe) -> None:
        """Write the recipe's candidate into the live model, in place.

        Arithmetic is float32 and is rounded once, into each live parameter's dtype. The result depends on the
        recipe and the checkpoints alone: not on the number of threads, nor on what was applied before.

        Raises:
            InputError: the recipe names other models than the merger's, or parameters that its method lacks.
            CandidateError: a weight is not finite, or memory ran out. The model is unusable until the next `apply`.
        """
        self.check(recipe)
        within_memory(
            lambda: self._apply(recipe), self._derived.forget, CandidateError, "a candidate must fit in memory"
        )

    def _apply(self, recipe: Recipe) -> None:
        experts = self._places(recipe)
        self._carry_out(self._works(recipe, experts), (BASE, *(expert + 1 for expert in experts)))
        if recipe.stack != self._restacker.stack:
            self._restacker.apply(recipe.stack, self._layer)

    def check(self, recipe: Recipe) -> None:
        """Raise the InputError that `apply` would, without writing anything."""
        super().check(recipe)
        if recipe.stack is not None:
            self._restacker.check(recipe.stack)

    def contents(self) -> Contents:
        """The candidate as an ordinary checkpoint, to be written before the next `apply`.

        Raises:
            InputError: the recipe's stack cannot be written as a checkpoint of this architecture.
        """
        if self._restacker.stack is None:
            return contents_of(self.model, self.tokenizer)
        config, tensors = self._restacker.unroll()
        return contents_of(self.model, self.tokenizer, tensors, config)

    def _carry_out(self, works: Mapping[str, Prepared], sources: Sequence[int]) -> None:
        """Merge into the live model.

        Args:
            works: for each parameter.
            sources: the places of the recipe's base and experts in the store.
        """
        piece = PIECE if self._in_one_piece else self._store.stage
        with torch.no_grad():
            for arena, out in zip(self._live.arenas, self._live.outs, strict=True):
                carry_out(arena, works, self._fetch(sources), out, self._launcher, piece=piece)
            self._live.settle()
            if not self._surely_finite and not self._allow_nonfinite:
                self._check_finite()

    def _check_finite(self) -> None:
        for arena, out in zip(self._live.arenas, self._live.outs, strict=True):
            if not out.isfinite().all():
                for segment in arena.segments:
                    check_finite(segment.flat(out), segment.name)

    def _layer(self, source: str, index: int) -> Mapping[str, torch.Tensor]:
        """The parameters of one layer of the base or an expert, by their paths inside it."""
        place = BASE if source == self._base.name else self.experts.index(source) + 1
        found = {}
        for slot in self._slots:
            if slot.place.layer == index:
                _, segment = self._store.segments[slot.name]
                found[slot.place.path] = self._store.flat(slot.name, place, 0, segment.numel).view(segment.shape)
        return found


class StreamedMerger(Sources):
    """Recipes written to disk piece by piece, without a live model: for models that are larger than memory.

    Arguments, attributes and errors are those of `Sources`.
    """

    _in_memory = False

    def contents(self, recipe: Recipe) -> Contents:
        """The recipe's candidate as a checkpoint whose weights are computed while they are written.

        Raises:
            InputError: as `check`; or the recipe has a stack, which needs the candidate in memory.
        """
        self.check(recipe)
        if recipe.stack is not None:
            raise InputError("a recipe with a stack must be merged in memory, by a Merger")
        experts = self._places(recipe)
        works = self._works(recipe, experts)
        fetch = self._fetch((BASE, *(expert + 1 for expert in experts)))
        model = self._live.model
        buffers = {name: tensor for name, tensor in checkpoint_tensors(model).items() if not tensor.is_meta}
        specs = [TensorSpec(s.name, a.kind.out, s.shape) for a in self._live.arenas for s in a.segments]
        order = {slot.name: position for position, slot in enumerate(self._slots)}
        specs.sort(key=lambda spec: order[spec.name])
        specs += [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in buffers.items()]

        def pieces(name: str) -> Iterator[torch.Tensor]:
            return split(buffers[name]) if name in buffers else self._pieces(name, works[name], fetch)

        return Contents(model.config, model.generation_config, self.tokenizer, tuple(specs), pieces)

    def _pieces(self, name: str, work: Prepared, fetch: Fetch) -> Iterator[torch.Tensor]:
        """The merged parameter, in 1-D pieces."""
        arena, segment = self._store.segments[name]
        position = arena.segments.index(segment)
        run = Run(work.form, position, position + 1, [work.entry])
        left = segment.numel
        for start, stop in pieces_of(arena, run, self._store.stage):
            out = torch.zeros(stop - start, arena.kind.width, dtype=arena.kind.out, device=arena.kind.device)
            with torch.no_grad():
                chunks = [fetch(arena, source, start, stop) for source in work.form.sources]
                merge_rows(arena, run, start, stop, chunks, out, self._launcher)
            piece = out.view(-1)[: min(left, out.numel())]
            left -= piece.numel()
            if not self._allow_nonfinite:
                check_finite(piece, name)
            yield piece.cpu()


def check_finite(weights: torch.Tensor, name: str) -> None:
    """Raise CandidateError when weights of the parameter `name` are not finite."""
    if not weights.isfinite().all():
        dtype = str(weights.dtype).removeprefix("torch.")
        raise CandidateError(f"weights must be finite in {dtype}, but {name} holds NaN or infinity")


def merger_of(recipe: Recipe, device: str = "auto", **options: Any) -> Merger:
    """The `Merger` of one recipe, with the recipe not yet applied; `options` are further arguments of `Sources`."""
    return Merger(recipe.base, recipe.experts, recipe.dtype, device, **options_of(recipe), **options)


def options_of(recipe: Recipe) -> dict[str, Any]:
    """What a recipe asks of its sources."""
    return {
        "tokenizer": recipe.tokenizer,
        "allow_nonfinite": recipe.allow_nonfinite,
        "methods": (recipe.method,),
    }


def merge(recipe: Recipe, device: str = "auto") -> PreTrainedModel:
    """The live model of one recipe. Raises InputError and CandidateError as `Merger` and `Merger.apply` do."""
    merger = merger_of(recipe, device)
    merger.apply(recipe)
    return merger.model
