"""Memory that runs out in the middle of a merge: that candidate fails in one line, and the next one works."""

from __future__ import annotations

import gc
import resource
import weakref

import pytest
import torch

from evomerge.engine import Merger, execute
from evomerge.engine import derived as derived_module
from evomerge.engine.compiled import Launcher
from evomerge.engine.exhaustion import within_memory
from evomerge.engine.store import Store
from evomerge.errors import CandidateError, InputError
from evomerge.shortage import is_out_of_memory
from tests.engine.test_materialize import same, state
from tests.engine.tiny import recipe

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.\nmore"),
]


def made(refs):
    return Merger(refs[0], refs[1:], "bfloat16", "cpu", launcher=Launcher(None))


@pytest.fixture(scope="module")
def fresh(zoo_bfloat16):
    """A merger that nothing goes wrong with."""
    return made(zoo_bfloat16)


@pytest.mark.parametrize(
    ("where", "error"),
    [*(("kernel", error) for error in ERRORS), ("statistics", ERRORS[1]), ("critical densities", ERRORS[2])],
)
def test_a_candidate_without_memory_fails_alone(zoo_bfloat16, fresh, monkeypatch, error, where):
    merger = made(zoo_bfloat16)
    one = recipe(zoo_bfloat16, "della" if where == "critical densities" else "ties", "bfloat16", density=0.4)

    def fail(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        if where == "kernel":
            patch.setattr(execute, "on_device", fail)
        elif where == "statistics":
            patch.setattr(Store, "chunks", fail)
        else:
            patch.setattr(derived_module, "critical_densities", fail)
        with pytest.raises(CandidateError, match="a candidate must fit in memory, but it ran out: ") as raised:
            merger.apply(one)
    assert "\n" not in str(raised.value)
    assert "free now" in str(raised.value)
    merger.apply(one)
    fresh.apply(one)
    assert same(state(merger.model), state(fresh.model))


def test_what_filled_the_memory_is_let_go_of_before_the_error_goes_on():
    held: list[weakref.ref[torch.Tensor]] = []
    released: list[bool] = []

    def fill() -> None:
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        raise MemoryError

    def release() -> None:
        gc.collect()
        released.append(held[0]() is None)

    with pytest.raises(CandidateError):
        within_memory(fill, release, CandidateError, "rule")
    assert released == [True]


def test_other_errors_are_not_taken_for_it(fresh, zoo_bfloat16, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("sizes must match")

    monkeypatch.setattr(execute, "on_device", fail)
    with pytest.raises(RuntimeError, match="sizes must match"):
        fresh.apply(recipe(zoo_bfloat16, "linear", "bfloat16"))


def test_sources_that_do_not_fit_after_all_are_wrong_input(zoo, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Store, "_empty", fail)
    with pytest.raises(InputError, match=r"memory must hold what the plan says \(.*\), but it ran out: MemoryError"):
        Merger(zoo[0], zoo[1:], "float32", "cpu")


def test_an_allocation_that_fails_is_known():
    """The real error of PyTorch, from a limit on the address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**44, hard))
    try:
        with pytest.raises(RuntimeError) as raised:
            torch.empty(2**45, dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert is_out_of_memory(raised.value)
