"""When kernels are compiled, and that nothing depends on it. Equal bits for every method: test_conformance.py."""

from __future__ import annotations

import logging

import pytest
import torch

from evomerge.caches import cache_folder
from evomerge.engine.compiled import Launcher, vectorizing_compiler
from evomerge.engine.tensors import merge_tensors


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200, 70, generator=generator)
    return base, {name: base + torch.randn(200, 70, generator=generator) for name in ("math", "lang")}


def merge(tensors, launcher: Launcher, method: str = "task_arithmetic", **numbers: float) -> torch.Tensor:
    base, experts = tensors
    return merge_tensors(method, base, experts, {"weight": 0.3, **numbers}, launcher=launcher)


def test_a_kernel_is_compiled_once_its_work_is_worth_it(tensors):
    launcher = Launcher(worth=2 * 200 * 70)
    eager = merge(tensors, launcher)
    assert launcher.compiled == 0
    results = [merge(tensors, launcher) for _ in range(3)]
    assert launcher.compiled == 1
    assert all(torch.equal(eager, result) for result in results)


def test_numbers_and_sizes_need_no_new_kernel(tensors):
    launcher = Launcher(worth=0)
    merge(tensors, launcher)
    base, experts = tensors
    shorter = base[:150], {name: tensor[:150] for name, tensor in experts.items()}
    with torch._dynamo.config.patch(error_on_recompile=True):
        other = merge(shorter, launcher, weight=0.9)
    assert launcher.compiled == 1
    assert torch.equal(other, merge(shorter, Launcher(None), weight=0.9))


@pytest.mark.parametrize("compiler", ["/nowhere/g++", "/bin/false"])
def test_without_a_compiler_everything_stays_eager_with_one_warning(tensors, monkeypatch, caplog, compiler):
    monkeypatch.setattr("evomerge.engine.compiled.ways", lambda device, finite: [{"cpp.cxx": (compiler,)}])
    torch._dynamo.reset()
    launcher = Launcher(worth=0)
    with (
        caplog.at_level(logging.WARNING, "evomerge.engine.compiled"),
        torch._inductor.config.patch(force_disable_caches=True),
    ):
        results = [merge(tensors, launcher, weight=0.41) for _ in range(3)]
    assert launcher.compiled == 0
    assert sum("kernels are not compiled" in record.message for record in caplog.records) == 1
    assert all(torch.equal(result, merge(tensors, Launcher(None), weight=0.41)) for result in results)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    vectorizing_compiler.cache_clear()
    script = vectorizing_compiler()
    vectorizing_compiler.cache_clear()
    if script is None:
        pytest.skip("there is no GCC for x86 here")
    assert script == str(tmp_path / "bin" / "g++")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert vectorizing_compiler() is None
    vectorizing_compiler.cache_clear()


def test_what_the_compiler_makes_no_more_kernels_for_is_merged_eagerly(tensors):
    launcher = Launcher(worth=0)
    merge(tensors, launcher)

    def gives_up(*args: object) -> None:
        raise torch._dynamo.exc.FailOnRecompileLimitHit("the limit is reached")

    launcher._kernels = dict.fromkeys(launcher._kernels, gives_up)
    assert torch.equal(merge(tensors, launcher, weight=0.7), merge(tensors, Launcher(None), weight=0.7))
