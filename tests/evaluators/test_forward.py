"""A model called with padding, a cache and a cut of the logits gives what it gives without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.evaluators.forward import Forward, PlainForward
from evomerge.evaluators.prefix import picked, run_root, shareable
from tests.evaluators.conftest import random_model

MODEL = random_model(0, vocabulary=60)
ROWS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2]]


@torch.no_grad()
def alone(row: list[int]) -> torch.Tensor:
    return MODEL(torch.tensor([row])).logits[0]


@torch.no_grad()
def test_padding_on_either_side_changes_nothing() -> None:
    ids = torch.tensor([ROWS[0], [0, 0, 0, *ROWS[1]], [*ROWS[1], 0, 0, 0]])
    mask = torch.ones_like(ids)
    mask[1, :3] = mask[2, 5:] = 0
    logits = Forward(MODEL)(ids, mask, keep=8).logits
    torch.testing.assert_close(logits[0], alone(ROWS[0]))
    torch.testing.assert_close(logits[1, 3:], alone(ROWS[1]))
    torch.testing.assert_close(logits[2, :5], alone(ROWS[1]))


@pytest.mark.parametrize("keep", [1, 3, 8])
@torch.no_grad()
def test_the_last_columns_are_those_asked_for(keep: int) -> None:
    ids = torch.tensor([ROWS[0], ROWS[0][::-1]])
    logits = Forward(MODEL)(ids, torch.ones_like(ids), keep=keep).logits
    torch.testing.assert_close(logits, MODEL(ids).logits[:, -keep:])
    torch.testing.assert_close(logits, PlainForward(MODEL)(ids, torch.ones_like(ids), keep=keep).logits)


@torch.no_grad()
def test_a_row_goes_on_from_a_root_and_from_picked_rows() -> None:
    forward = Forward(MODEL)
    root = run_root(forward, ROWS[0][:3])
    ids = torch.tensor([ROWS[0][3:6], [0, 0, ROWS[1][0]]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 1]])
    first = forward(ids, mask, root.rows(2), use_cache=True)
    assert shareable(root.cache).get_seq_length() == 3
    own = picked(shareable(first.cache), torch.tensor([1, 0, 1]))
    assert own.get_seq_length() == 6
    rests = torch.tensor([ROWS[1][1:3], ROWS[0][6:8], ROWS[1][2:4]])
    logits = forward(rests, torch.cat([mask[[1, 0, 1]], torch.ones_like(rests)], 1), own, keep=2, use_cache=True).logits
    torch.testing.assert_close(logits[0], alone(ROWS[0][:3] + ROWS[1][:3])[-2:])
    torch.testing.assert_close(logits[1], alone(ROWS[0])[-2:])
    torch.testing.assert_close(logits[2], alone([*ROWS[0][:3], ROWS[1][0], *ROWS[1][2:4]])[-2:])
    assert own.get_seq_length() == 8
    assert shareable(first.cache).get_seq_length() == 6


@torch.no_grad()
def test_weights_are_not_multiplied_with_a_view() -> None:
    """torch copies weights without gradients for every row of a view; see `Forward`."""
    seen: list[bool] = []
    handle = MODEL.lm_head.register_forward_pre_hook(lambda _module, given: seen.append(given[0].is_contiguous()))
    ids = torch.tensor(ROWS[:1] * 3)
    for keep in (1, 3, 8):
        Forward(MODEL)(ids, torch.ones_like(ids), keep=keep)
    handle.remove()
    assert seen == [True] * 3


def test_only_keys_and_values_are_shared() -> None:
    class Odd:
        layers: tuple[Any, ...] = ()

    for cache in (None, Odd()):
        with pytest.raises(TypeError, match="a cache must be of keys and values alone, but is"):
            shareable(cache)  # type: ignore[arg-type]
