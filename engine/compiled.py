"""Kernels compiled by torch.compile into one fused pass; eager, in chunks that fit the cache, where that does not pay.

Compiled and eager give the same bits, so which one runs is a matter of time alone. Compiling takes seconds: it is
done once a kernel's work in this process is worth it, and what the compiler makes is kept on disk for later ones.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch

from evomerge.caches import cache_folder
from evomerge.engine.checkpoint import first_line
from evomerge.engine.kernels import Form

logger = logging.getLogger(__name__)

WORTH_COMPILING = 2**27
"""Elements that a kernel has to have written in this process."""

CPU_CHUNK = 2**15
"""PyTorch runs loops of up to this size in the calling thread, and some such float32 chunks fit the cache of a core."""

CUDA_CHUNK = 2**25

CUDA_OPTIONS: dict[str, Any] = {"emulate_precision_casts": True, "eager_numerics.division_rounding": True}
"""What makes the compiler keep to eager arithmetic: no fused multiply-add, divisions rounded to nearest."""

Kernel = Callable[[torch.Tensor, Sequence[torch.Tensor], Sequence[torch.Tensor]], None]


class Launcher:
    """Runs kernels.

    Args:
        worth: elements after which a kernel is compiled; 0 compiles at first use, None never.
        finite: whether all weights are, which lets the compiler leave out checks for NaN.

    Attributes:
        compiled: how many kernels were compiled.
    """

    def __init__(self, worth: int | None = WORTH_COMPILING, *, finite: bool = True) -> None:
        self._worth = worth
        self._finite = finite
        self._written: dict[object, int] = {}
        self._kernels: dict[object, Kernel] = {}
        self.compiled = 0

    def run(
        self, form: Form, out: torch.Tensor, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]
    ) -> None:
        """Write the result of a form's kernel, rounded to the dtype of `out`.

        Args:
            form: the kernel.
            out: [rows, width].
            chunks: of each of the form's sources, [rows, width].
            numbers: as the form's `numbers` gives them.
        """
        key = (form.signature, out.dtype, out.device.type, out.shape[1], *(chunk.dtype for chunk in chunks))
        written = self._written[key] = self._written.get(key, 0) + out.numel()
        # Parameters' own rows have many lengths and little work each: they are not compiled.
        if self._worth is None or written < self._worth or form.by_row or out.shape[0] < 2:
            run_eagerly(form, out, chunks, numbers)
        elif key in self._kernels:
            self._run(key, form, out, chunks, numbers)
        else:
            self._compile(key, form, out, chunks, numbers)

    def _run(
        self,
        key: object,
        form: Form,
        out: torch.Tensor,
        chunks: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor],
    ) -> None:
        """Run a compiled kernel, where the compiler has one that fits these places in memory or may make one.

        It specializes on where `out` begins in its arena, and takes a few such places before it gives up: rows that
        recipes leave out (experts with weight 0) make many.
        """
        try:
            self._kernels[key](out, chunks, numbers)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            run_eagerly(form, out, chunks, numbers)

    def _compile(
        self,
        key: object,
        form: Form,
        out: torch.Tensor,
        chunks: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor],
    ) -> None:
        """Compile a kernel, in each way there is, and run it; the fastest way is kept.

        Without a working compiler everything stays eager, with one warning.
        """
        keep_compiled_kernels()
        found: list[tuple[float, Kernel]] = []
        try:
            for options in ways(out.device, finite=self._finite):
                kernel = compiled(form, options, out, chunks, numbers)
                found.append((fastest(partial(kernel, out, chunks, numbers)), kernel))
        except Exception as error:
            logger.warning("kernels are not compiled, and slower: %s", first_line(error))
            self._worth = None
            run_eagerly(form, out, chunks, numbers)
            return
        self._kernels[key] = min(found, key=lambda timed: timed[0])[1]
        self.compiled += 1


def fastest(do: Callable[[], None], repeats: int = 3) -> float:
    """The least time that a call takes, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        times.append(time.perf_counter() - start)
    return min(times)


def compiled(
    form: Form,
    options: dict[str, Any],
    out: torch.Tensor,
    chunks: Sequence[torch.Tensor],
    numbers: Sequence[torch.Tensor],
) -> Kernel:
    """A form's kernel compiled for any number of rows, and run once."""

    def kernel(out: torch.Tensor, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> None:
        out.copy_(form.body(chunks, numbers))

    fused: Kernel = torch.compile(kernel, fullgraph=True, dynamic=False, options=options)
    for tensor in (out, *chunks, *numbers):
        torch._dynamo.mark_dynamic(tensor, 0)
    limits = torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)
    with limits:
        fused(out, chunks, numbers)
    return fused


def run_eagerly(form: Form, out: torch.Tensor, chunks: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor]) -> None:
    """The same without a compiler: on CPU one thread for each of torch's, each with chunks that fit its cache."""
    rows, width = out.shape
    step = max((CPU_CHUNK if out.device.type == "cpu" else CUDA_CHUNK) // max(width, 1), 1)

    def one(start: int) -> None:
        span = slice(start, start + step)
        out[span].copy_(form.body([chunk[span] for chunk in chunks], [number[span] for number in numbers]))

    starts = range(0, rows, step)
    if out.device.type != "cpu" or torch.get_num_threads() == 1 or len(starts) == 1:
        for start in starts:
            one(start)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(one, starts))


def ways(device: torch.device, *, finite: bool) -> list[dict[str, Any]]:
    """Options of the compiler to choose from; all keep to eager arithmetic, some only for finite numbers.

    torch.compile writes vector code of its own and turns GCC's vectorizer off. For kernels with many comparisons,
    plain loops that GCC vectorizes with mask registers are up to twice as fast; for others it is the other way round.
    """
    if device.type != "cpu":
        return [dict(CUDA_OPTIONS)]
    vectorizer = vectorizing_compiler() if finite else None
    return [{}, *([{"cpp.simdlen": 1, "cpp.cxx": (vectorizer,)}] if vectorizer else [])]


@cache
def vectorizing_compiler() -> str | None:
    """A script that calls GCC with its own vectorizer on, for finite numbers; None where there is no GCC for x86."""
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None or platform.machine() not in ("x86_64", "AMD64") or os.name != "posix":
        return None
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    if "Free Software Foundation" not in told:
        return None
    text = f'#!/bin/sh\nexec "{compiler}" "$@" -ftree-loop-vectorize -mprefer-vector-width=512 -ffinite-math-only\n'
    script = cache_folder() / "bin" / "g++"
    script.parent.mkdir(parents=True, exist_ok=True)
    if not script.is_file() or script.read_text() != text:
        fresh = script.with_name(f"g++.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(script)
    return str(script)


def keep_compiled_kernels() -> None:
    """Have the compiler keep what it makes in the user's cache, unless TORCHINDUCTOR_CACHE_DIR names a place."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "kernels"))
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it warns of each limit that `Launcher` handles
