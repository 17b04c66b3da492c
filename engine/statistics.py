"""What merge methods may know about each parameter: computed when first asked for, then kept.

Nothing here depends on a candidate's coefficients, so a search pays for it once. Sums run in float64 over chunks
of a fixed size, one after the other: the same on every run, for any number of threads and wherever the sources
are. Kept are (n + 1)^2 numbers a parameter for Gram matrices and a table of ranks for each score of its elements
that a method asked for, such as the magnitudes of an expert that was trimmed. Processes of one host that share their
sources share these too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch

from evomerge.engine.arena import Segment
from evomerge.engine.della import critical_densities, survives
from evomerge.engine.magnitudes import RankTable
from evomerge.engine.plan import EVERY, NOTHING, Array, Cut, Keep, Score
from evomerge.engine.random_bits import HALF, Keys, element_hash, expert_word, random_key, row_seeds, row_word, signed
from evomerge.engine.scores import SCORES, Piece, divergences, variance
from evomerge.engine.shelf import Shelf
from evomerge.engine.store import BASE, Store
from evomerge.errors import InputError

K = TypeVar("K")
T = TypeVar("T")

RECENT = 2**14
"""Sums over masks that are remembered."""

CHUNK = {"cpu": 2**15, "cuda": 2**22}
"""Elements that are summed at a time. On CPU PyTorch sums so many in the calling thread, in an order of its own; a GPU
is waited for after each chunk."""


class Statistics:
    """The statistics of all parameters of one set of sources. Experts go by their position in the store.

    Args:
        store: base and experts.
        shelf: where processes put what they have computed for each other; None: everyone computes.
    """

    def __init__(self, store: Store, shelf: Shelf | None = None) -> None:
        self.store = store
        self._shelf = shelf
        self._grams: dict[str, Array] = {}
        self._row_grams: dict[str, Array] = {}
        self._tables: dict[tuple[str, Score], RankTable] = {}
        self._totals: dict[tuple[str, Score], Array] = {}
        self._extremes: dict[tuple[str, Score], Array] = {}
        self._divergences: dict[tuple[str, int], Array] = {}
        self._recent: dict[object, Any] = {}
        self._lock = threading.Lock()

    def of(self, parameter: str, experts: Sequence[int], seed: int) -> OneParameter:
        """The statistics of `parameter` as a recipe with these experts (by position here) and this seed sees it."""
        return OneParameter(self, parameter, tuple(experts), seed)

    def segment(self, parameter: str) -> Segment:
        """Where the parameter lies."""
        return self.store.segments[parameter][1]

    def width(self, parameter: str) -> int:
        """Elements a row of the parameter's arena."""
        return self.store.segments[parameter][0].kind.width

    def gram(self, parameter: str) -> Array:
        """Inner products of the base and all task vectors: float64 [n + 1, n + 1]."""
        return self._kept(self._grams, "gram", parameter, lambda: self._gram(parameter))

    def row_grams(self, parameter: str) -> Array:
        """The same for each row: float64 [rows, n + 1, n + 1]."""
        return self._kept(self._row_grams, "row grams", parameter, lambda: self._gram_rows(parameter))

    def table(self, parameter: str, score: Score) -> RankTable:
        """The ranks of a score. Raises InputError when one is not finite."""
        key = (parameter, score)
        if key not in self._tables:
            counted = self._shelved("table", key, lambda: self._table(parameter, score, None).arrays)
            self._tables[key] = self._table(parameter, score, counted)
        return self._tables[key]

    def total(self, parameter: str, score: Score) -> float:
        """The sum of a score."""

        def compute() -> Array:
            return np.array(sum(float(part.sum(dtype=torch.float64)) for part in self.scores(parameter, score)))

        return float(self._kept(self._totals, "total", (parameter, score), compute))

    def extremes(self, parameter: str, score: Score) -> tuple[float, float]:
        """The smallest and the largest score; there is at least one."""

        def compute() -> Array:
            found = torch.stack([torch.stack(part.aminmax()) for part in self.scores(parameter, score)])
            return np.array([float(found[:, 0].min()), float(found[:, 1].max())])

        low, high = self._kept(self._extremes, "extremes", (parameter, score), compute)
        return float(low), float(high)

    def divergences(self, parameter: str, expert: int) -> Array:
        """As `ParameterStatistics.divergences`."""
        key = (parameter, expert)
        return self._kept(self._divergences, "divergences", key, lambda: self._divergences_of(parameter, expert))

    def scores(self, parameter: str, score: Score) -> Iterator[torch.Tensor]:
        """The scores of all elements, float32 chunks in order."""
        known = SCORES[score.kind]
        for _, piece in self._pieces(parameter, score.experts, by_row=known.by_row):
            yield known.function(piece, score.numbers)

    def kept_l1(self, parameter: str, expert: int, keys: Keys, keep: Keep) -> float:
        """sum abs(d_i) over the elements that survive the random masks.

        Args:
            parameter, expert: whose.
            keys: of the parameter's words, and of this expert's alone.
            keep: `cut`, `density` and `epsilon` count.
        """
        masks = (keep.cut, keep.density, keep.epsilon)
        return self._remembered((parameter, keys, masks), lambda: self._masked_l1(parameter, expert, keys, keep))

    def _masked_l1(self, parameter: str, expert: int, keys: Keys, keep: Keep) -> float:
        total = 0.0
        for start, piece in self._pieces(parameter, (expert,), by_row=keep.density is not None):
            (delta,) = piece.deltas
            word = words(keys, start, delta)
            if keep.density is None:
                mask = word < keep.cut
            else:
                density = torch.tensor(keep.density, dtype=torch.float32, device=delta.device)
                mask = survives(critical_densities(delta, piece.columns, word, keep.epsilon), density)
            total += float((delta.abs() * mask).sum(dtype=torch.float64))
        return total

    def selected_squares(self, parameter: str, experts: Sequence[int], floor: Cut, keys: Keys) -> tuple[float, ...]:
        """As `ParameterStatistics.selected_squares`."""
        key = (parameter, tuple(experts), floor, keys.element)
        return self._remembered(key, lambda: self._squares(parameter, experts, floor, keys))

    def _squares(self, parameter: str, experts: Sequence[int], floor: Cut, keys: Keys) -> tuple[float, ...]:
        totals, width = [0.0] * len(experts), self.width(parameter)
        for start, piece in self._pieces(parameter, experts):
            deltas = piece.deltas
            number = torch.arange(start, start + piece.base.numel(), device=piece.base.device) // width
            lucky = row_word(torch.tensor(keys.element.high, device=number.device), number) < floor.ties
            mask = variance(deltas) > torch.where(lucky, floor.below, floor.value).float()
            for i, delta in enumerate(deltas):
                totals[i] += float(torch.where(mask, delta, 0.0).double().square().sum())
        return tuple(totals)

    def _pieces(self, parameter: str, experts: Sequence[int], *, by_row: bool = False) -> Iterator[tuple[int, Piece]]:
        """(position of the first element, piece), over all of the parameter."""
        arena, segment = self.store.segments[parameter]
        columns = segment.columns
        sources = (BASE, *(expert + 1 for expert in experts))
        step = CHUNK[arena.kind.device.type]
        for start, (base, *own) in self.store.chunks(parameter, sources, step, columns if by_row else 1):
            yield start, Piece(base.float(), [expert.float() for expert in own], columns)

    def _kept(self, cache: dict[K, Array], what: str, key: K, compute: Callable[[], Array]) -> Array:
        if key not in cache:
            (cache[key],) = self._shelved(what, key, lambda: (compute(),))
        return cache[key]

    def _shelved(self, what: str, key: object, compute: Callable[[], Sequence[Array]]) -> Sequence[Array]:
        """What another process has computed, or this one for all."""
        if self._shelf is None:
            return compute()
        name = repr((what, key))
        held = self._shelf.get(name)
        if held is None:
            own = compute()
            held = self._shelf.put(name, own)
        return own if held is None else held

    def _remembered(self, key: object, compute: Callable[[], T]) -> T:
        """What was computed for the key, if that was not long ago."""
        with self._lock:
            if key in self._recent:
                return cast(T, self._recent[key])
        found = compute()
        with self._lock:
            while len(self._recent) >= RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = found
        return found

    @property
    def _everyone(self) -> range:
        return range(len(self.store.experts))

    def _gram(self, parameter: str) -> Array:
        size = len(self._everyone) + 1
        gram = np.zeros((size, size))
        for _, piece in self._pieces(parameter, self._everyone):
            base = piece.base.double()
            parts = [base, *(expert.double() - base for expert in piece.experts)]
            for i, left in enumerate(parts):
                for j in range(i + 1):
                    gram[i, j] += float((left * parts[j]).sum())
        return np.asarray(np.tril(gram) + np.tril(gram, -1).T)

    def _gram_rows(self, parameter: str) -> Array:
        columns, size = self.segment(parameter).columns, len(self._everyone) + 1
        rows = []
        for _, piece in self._pieces(parameter, self._everyone, by_row=True):
            base = piece.base.double()
            parts = [base, *(expert.double() - base for expert in piece.experts)]
            stacked = torch.stack([part.view(-1, columns) for part in parts], dim=1)
            rows.append((stacked @ stacked.mT).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, size, size))

    def _table(self, parameter: str, score: Score, counted: Sequence[Array] | None) -> RankTable:
        many, numel = SCORES[score.kind].many, self.segment(parameter).numel
        table = RankTable(lambda: self.scores(parameter, score), numel, many=many, counted=counted)
        if not table.finite:
            names = ", ".join(repr(self.store.experts[expert]) for expert in score.experts)
            raise InputError(
                f"weights must be finite to be ranked, but {parameter} of the base or of {names} holds NaN or infinity"
            )
        return table

    def _divergences_of(self, parameter: str, expert: int) -> Array:
        found = [divergences(piece).cpu().numpy() for _, piece in self._pieces(parameter, (expert,), by_row=True)]
        return np.concatenate(found) if found else np.zeros(0)


class OneParameter:
    """The statistics of one parameter, as methods see them: a `ParameterStatistics`.

    Args:
        statistics: of all sources.
        parameter: its name.
        experts: which of the sources' experts take part, in the recipe's order.
        seed: of the recipe's random words.
    """

    def __init__(self, statistics: Statistics, parameter: str, experts: tuple[int, ...], seed: int) -> None:
        self._statistics = statistics
        self._parameter = parameter
        self._experts = experts
        self._seed = seed

    @property
    def numel(self) -> int:
        """The number of elements."""
        return self._statistics.segment(self._parameter).numel

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return self._statistics.segment(self._parameter).shape

    def keys(self) -> Keys:
        """The keys of the parameter's random words."""
        names = [self._statistics.store.experts[expert] for expert in self._experts]
        element = random_key(self._seed, "", self._parameter)
        return Keys(element, tuple(random_key(self._seed, name, self._parameter) for name in names))

    def gram(self) -> Array:
        """Inner products of base (row 0) and experts."""
        return _of_weights(self._chosen(self._statistics.gram(self._parameter)))

    def row_grams(self) -> Array:
        """The same for each row."""
        return _of_weights(self._chosen(self._statistics.row_grams(self._parameter)))

    def task_gram(self) -> Array:
        """Inner products of the task vectors."""
        return self._chosen(self._statistics.gram(self._parameter))[1:, 1:]

    def row_task_grams(self) -> Array:
        """The same for each row."""
        return self._chosen(self._statistics.row_grams(self._parameter))[:, 1:, 1:]

    def largest(self, expert: int, k: int) -> Cut | None:
        """Where the k largest of abs(d_i) end."""
        return self.cut(Score("magnitude", (expert,)), k)

    def l1(self, expert: int, keep: Keep | None = None) -> float:
        """sum abs(d_i), over the elements that survive `keep`'s random masks where it is given."""
        if keep is None:
            return self.total(Score("magnitude", (expert,)))
        keys = self.keys()
        own = Keys(keys.element, (keys.experts[expert],))
        return self._statistics.kept_l1(self._parameter, self._experts[expert], own, keep)

    def cut(self, score: Score, k: int) -> Cut | None:
        """Where the k largest scores end.

        Of the elements tied at the k-th score the share (k - above) / tied are among them, by the words of their
        rows (docs/decisions/0002-ties-at-the-trim-threshold.md).
        """
        if k >= self.numel:
            return None
        if k == 0:
            return NOTHING
        value, above, tied = self._table(score).threshold(k)
        return Cut(value, (k - above) * EVERY // tied)

    def ranked(self, score: Score, k: int) -> float:
        """The k-th largest score."""
        return self._table(score).threshold(k).value

    def nonzero(self, score: Score) -> int:
        """How many scores are not 0."""
        return self._table(score).positive if self.numel else 0

    def extremes(self, score: Score) -> tuple[float, float]:
        """The smallest and the largest score."""
        return self._statistics.extremes(self._parameter, self._placed(score)) if self.numel else (0.0, 0.0)

    def total(self, score: Score) -> float:
        """The sum of the scores."""
        return self._statistics.total(self._parameter, self._placed(score))

    def selected_squares(self, experts: Sequence[int], floor: Cut) -> tuple[float, ...]:
        """sum d_i^2 over the positions where the variance passes the cut."""
        places = [self._experts[expert] for expert in experts]
        return self._statistics.selected_squares(self._parameter, places, floor, self.keys())

    def divergences(self, expert: int) -> Array:
        """How much each row's softmax has moved."""
        return self._statistics.divergences(self._parameter, self._experts[expert])

    def _table(self, score: Score) -> RankTable:
        return self._statistics.table(self._parameter, self._placed(score))

    def _placed(self, score: Score) -> Score:
        return score._replace(experts=tuple(self._experts[expert] for expert in score.experts))

    def _chosen(self, grams: Array) -> Array:
        rows = [BASE, *(expert + 1 for expert in self._experts)]
        return np.asarray(grams[..., rows, :][..., rows])


def _of_weights(gram: Array) -> Array:
    """Inner products of base and experts, from those of base and task vectors: x_i = b + d_i."""
    to = np.eye(gram.shape[-1])
    to[:, 0] = 1.0
    return np.asarray(to @ gram @ to.T)


def words(keys: Keys, start: int, like: torch.Tensor) -> torch.Tensor:
    """The random words of an expert's elements.

    Args:
        keys: of the parameter, and of this expert alone.
        start: the first element; elements [start, start + m) get words.
        like: [m]; gives m and the device.

    Returns:
        int64 [m] in [0, 2^32).
    """
    width = 16
    first, last = start // width, -(-(start + like.numel()) // width)
    rows = torch.arange(first, last, device=like.device) * width
    seed, later = row_seeds(keys.element, rows)
    key, multiplier = signed(torch.tensor([keys.experts[0].low, keys.experts[0].high | 1], device=like.device))
    word = expert_word(element_hash(seed[:, None], later[:, None], width), key, multiplier).view(-1).long() + HALF
    return word[start - first * width : start - first * width + like.numel()]
