"""Batches that do not fit into memory are halved, and nothing is lost or run twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import CandidateError
from evomerge.evaluators.batches import BatchLimit, in_batches

OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
)


@given(count=st.integers(0, 40), size=st.integers(1, 20), fits=st.integers(1, 20), error=st.sampled_from(OUT_OF_MEMORY))
def test_results_are_those_of_every_item_once_whatever_fits(count: int, size: int, fits: int, error: Exception) -> None:
    ran: list[int] = []

    def run(part: Sequence[int]) -> list[int]:
        if len(part) > fits:
            raise error
        ran.extend(part)
        return [item * item for item in part]

    limit = BatchLimit(size)
    assert in_batches(run, range(count), limit) == [item * item for item in range(count)]
    assert ran == list(range(count))
    assert limit.size == size or limit.size <= fits


def test_the_smaller_size_is_kept_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    def run(part: Sequence[int]) -> list[int]:
        sizes.append(len(part))
        if len(part) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return list(part)

    limit = BatchLimit(8)
    with caplog.at_level(logging.WARNING, "evomerge"):
        in_batches(run, range(10), limit)
        in_batches(run, range(6), limit)
    assert sizes == [8, 4, 4, 2, 4, 2]
    (record,) = caplog.records
    assert record.getMessage() == "a batch of 8 does not fit into memory: batches of 4 from here on"


def test_one_item_that_does_not_fit_ends_the_candidate_and_other_errors_pass() -> None:
    def fail(error: Exception) -> None:
        def run(_part: Sequence[int]) -> list[int]:
            raise error

        in_batches(run, range(4), BatchLimit(4))

    with pytest.raises(CandidateError, match="out of memory with batch_size 1"):
        fail(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("mat1 and mat2 shapes"))
