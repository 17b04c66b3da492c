"""Scores of single elements that methods ask for the ranks, sums and extremes of; a registry by name.

Kernels that compare with a threshold of a score compute it by the same function, so both have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from evomerge.engine.competition import columns_of, excess, own_part, shared_part

SMOOTH = 1e-8
"""What is added to the probabilities that arcee_fusion compares."""


class Piece(NamedTuple):
    """A part of one parameter.

    Attributes:
        base: float32 [m].
        experts: float32 [m] each, those that the score names.
        columns: the length of the parameter's rows; m is a multiple of it where the score works by row.
    """

    base: torch.Tensor
    experts: Sequence[torch.Tensor]
    columns: int

    @property
    def deltas(self) -> list[torch.Tensor]:
        """The task vectors."""
        return [expert - self.base for expert in self.experts]


Function = Callable[[Piece, tuple[Any, ...]], torch.Tensor]
"""From a piece and the score's numbers to float32 [m]."""


class ScoreFunction(NamedTuple):
    """A registered score.

    Attributes:
        function: computes it.
        many: whether scores take many values, even if the stored weights take few.
        by_row: whether it needs whole rows.
    """

    function: Function
    many: bool
    by_row: bool


SCORES: dict[str, ScoreFunction] = {}


def score(name: str, *, many: bool = True, by_row: bool = False) -> Callable[[Function], Function]:
    """Register a function as the score `name`; see `ScoreFunction`."""

    def register(function: Function) -> Function:
        SCORES[name] = ScoreFunction(function, many, by_row)
        return function

    return register


@score("magnitude", many=False)
def magnitude(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """abs(d)."""
    return (piece.experts[0] - piece.base).abs_()


@score("product")
def product(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """The product of two task vectors; of one with itself where only one is named."""
    deltas = piece.deltas
    return deltas[0] * deltas[-1]


@score("variance")
def variance_score(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """`variance` of the task vectors."""
    return variance(piece.deltas)


@score("competition: own")
def own_score(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """PCB's `own_part`; numbers: lowest, strength, how many compete."""
    lowest, strength = _scalars(numbers[:2], piece)
    return own_part(piece.deltas[0], lowest, strength, numbers[2])


@score("competition: shared")
def shared_score(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """PCB's `shared_part`; numbers: center, inverse."""
    deltas = piece.deltas
    return shared_part(deltas[0], deltas[-1], *_scalars(numbers, piece))


@score("competition")
def competition_score(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """PCB's `excess`; numbers: which of the experts, the `Competition`."""
    return excess(numbers[0], piece.deltas, columns_of(numbers[1], piece.base.device), {})


@score("importance", by_row=True)
def importance(piece: Piece, numbers: tuple[Any, ...]) -> torch.Tensor:
    """abs(d) times the divergence of its row."""
    rows = (piece.experts[0] - piece.base).abs_().view(-1, piece.columns)
    return (rows * divergences(piece).float()[:, None]).view(-1)


def divergences(piece: Piece) -> torch.Tensor:
    """KL(p, q) of each row, with p = softmax x + 1e-8 and q = softmax b + 1e-8: float64 [rows], >= 0."""
    p, q = (
        torch.softmax(values.view(-1, piece.columns).double(), dim=1) + SMOOTH
        for values in (piece.experts[0], piece.base)
    )
    return (p * torch.log(p / q)).sum(dim=1).clamp_(min=0.0)


def variance(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The variance of each element over the experts, divided by n: float32, of the task vectors' shape."""
    mean = deltas[0]
    for delta in deltas[1:]:
        mean = mean + delta
    mean = mean * (1.0 / len(deltas))
    total = torch.zeros_like(mean)
    for delta in deltas:
        total = total + (delta - mean) * (delta - mean)
    return total * (1.0 / len(deltas))


def _scalars(numbers: tuple[float, ...], piece: Piece) -> list[torch.Tensor]:
    return list(torch.tensor(numbers, dtype=torch.float32, device=piece.base.device))
