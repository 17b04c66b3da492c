"""How fast candidates are merged, against a plain copy of memory and against mergekit, all in one run.

    python benchmarks/merge.py --params 135e6 --experts 3 --method ties --device cpu
    python benchmarks/merge.py --table            # methods at one size, then one method over sizes and experts

A random Llama in bfloat16 and its experts are written to a temporary folder; a fresh process then opens them and
merges candidates whose numbers all differ, as a search would. Bytes are those of each source that the method reads,
once, and of the result, in the storage type. Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

METHODS = ("linear", "task_arithmetic", "slerp", "ties", "breadcrumbs", "della", "dare_linear", "dare_ties")
REPEATS = 15
LAYERS = 12
VOCABULARY = 8192


def config_for(params: float) -> Any:
    """A Llama with about so many parameters: 12 layers, of a width that fits."""
    from transformers import LlamaConfig

    per_square = LAYERS * (4 + 3 * 8 / 3)  # attention and MLP, in units of the width squared
    width = 64
    while per_square * (width + 64) ** 2 + VOCABULARY * (width + 64) <= params:
        width += 64
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 64) * 64,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        tie_word_embeddings=True,
    )


def write_models(folder: Path, params: float, experts: int) -> None:
    """Random checkpoints: the base, and experts a small step away from it."""
    from accelerate import init_empty_weights
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from evomerge.engine.writer import TensorSpec, write_shards

    config = config_for(params)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    specs = [TensorSpec(name, torch.bfloat16, tuple(p.shape)) for name, p in model.named_parameters()]
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    for expert in range(experts + 1):
        target = folder / ("base" if expert == 0 else f"expert{expert}")
        target.mkdir(parents=True)

        def pieces(name: str, expert: int = expert) -> Iterator[torch.Tensor]:
            shape = next(spec.shape for spec in specs if spec.name == name)
            seed = [spec.name for spec in specs].index(name)
            weights = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            if expert:
                step = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * expert + seed))
                weights = weights + 0.001 * step
            yield weights.bfloat16().reshape(-1)

        write_shards(target, specs, pieces, 2**62)
        config.save_pretrained(target)
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(target)


def numbers_for(method: str, k: int) -> dict[str, float]:
    """Numbers of the k-th candidate: all that a search would vary."""
    from evomerge.engine.method import METHODS as ALL

    known = {spec.name for spec in ALL.get(method).parameters}
    given = {"weight": 0.5 + 0.01 * k, "density": 0.4 + 0.007 * k, "t": 0.3 + 0.01 * k}
    return {name: value for name, value in given.items() if name in known}


def measure(folder: Path, experts: int, method: str, device: str) -> dict[str, Any]:
    """In a process of its own: open, merge candidates, and compare with copies made in between."""
    from evomerge.engine import METHODS as ALL
    from evomerge.engine import Group, Merger, ModelRef, Recipe

    experts = min(experts, ALL.get(method).max_experts or experts)
    refs = [ModelRef(model=str(folder / "base"))]
    refs += [ModelRef(model=str(folder / f"expert{i + 1}")) for i in range(experts)]

    def recipe(k: int) -> Recipe:
        groups = (Group(parameters=numbers_for(method, k)),)
        return Recipe(base=refs[0], experts=tuple(refs[1:]), method=method, groups=groups)

    merger = Merger(refs[0], refs[1:], "bfloat16", device, methods=(method,))
    size = sum(p.numel() for p in merger.model.parameters())
    copy = copier(merger)
    start = time.perf_counter()
    works = merger._works(recipe(0), tuple(range(experts)))
    statistics_s = time.perf_counter() - start
    read = sum(isinstance(source, int) for source in next(iter(works.values())).form.sources)
    start = time.perf_counter()
    merger.apply(recipe(0))
    synchronize(device)
    first_s = time.perf_counter() - start
    warm = [timed(lambda k=k: merger.apply(recipe(k)), device, 1) for k in range(1, 5)]
    while not merger._launcher.compiled and len(warm) < 40:  # small models take some candidates to be worth it
        warm.append(timed(lambda: merger.apply(recipe(4)), device, 1))
    times, copies = [], []
    for k in range(5, 5 + REPEATS):
        copies.append(timed(copy, device, 1))
        times.append(timed(lambda k=k: merger.apply(recipe(k)), device, 1))
    merge_s, copy_s = statistics.median(times), statistics.median(copies)
    merge_gb_s = (read + 1) * size * 2 / merge_s / 1e9
    copy_gb_s = 2 * size * 2 / copy_s / 1e9
    return {
        "method": method,
        "device": device,
        "params": size,
        "experts": experts,
        "copy_gb_s": round(copy_gb_s, 2),
        "merge_gb_s": round(merge_gb_s, 2),
        "ratio_to_copy": round(merge_gb_s / copy_gb_s, 3),
        "merge_ms": round(merge_s * 1e3, 2),
        "first_ms": round(first_s * 1e3, 1),
        "slowest_ms": round(max(first_s, *warm) * 1e3, 1),
        "statistics_s": round(statistics_s, 2),
        "plan_gb": round((merger.memory.host if device == "cpu" else merger.memory.device) / 1e9, 3),
        "peak_gb": round(peak_gb(device), 3),
    }


def copier(merger: Any) -> Callable[[], Any]:
    """A plain copy of the model's bytes, from one of its buffers to another."""
    arenas = merger._live.arenas
    pairs = [(out, merger._store.rows(a, 0, 0, a.rows)) for a, out in zip(arenas, merger._live.outs, strict=True)]
    return lambda: [out.copy_(source) for out, source in pairs]


def timed(do: Callable[[], Any], device: str, repeats: int) -> float:
    """The median time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        do()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_gb(device: str) -> float:
    """The most memory that this process, or the GPU, has held."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent that started this process
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def measure_mergekit(folder: Path, experts: int, method: str) -> float | None:
    """Milliseconds that mergekit takes for the same merge in memory; None where it lacks the method."""
    from mergekit.merge_methods.api import merge_state_dicts
    from safetensors.torch import load_file

    from evomerge.engine.method import METHODS as ALL

    experts = min(experts, ALL.get(method).max_experts or experts)
    names = ["base", *(f"expert{i + 1}" for i in range(experts))]
    states = {name: load_file(folder / name / "model.safetensors") for name in names}
    base = None if method == "linear" else "base"
    states = states if base else {name: states[name] for name in names[1:]}
    start = time.perf_counter()
    try:
        merge_state_dicts(states, method, parameters=numbers_for(method, 0), **({"base": base} if base else {}))
    except (KeyError, ValueError, TypeError) as error:
        print(f"mergekit does not do this: {error}", file=sys.stderr)
        return None
    return (time.perf_counter() - start) * 1e3


def run(params: float, experts: int, method: str, device: str, *, mergekit: bool = True) -> dict[str, Any]:
    """One measurement; every part in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="evomerge-bench-") as name:
        steps = [["write"], ["measure"], *([["mergekit"]] if mergekit else [])]
        told = []
        for step in steps:
            command = [sys.executable, __file__, "--step", *step, "--folder", name, "--params", str(params)]
            command += ["--experts", str(experts), "--method", method, "--device", device]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            told.append(json.loads(out.strip().splitlines()[-1]))
    result: dict[str, Any] = told[1]
    slow = told[2]["mergekit_ms"] if mergekit else None
    result["mergekit_ms"] = None if slow is None else round(slow, 1)
    result["speedup_vs_mergekit"] = None if slow is None else round(slow / result["merge_ms"], 1)
    return result


def one_step(step: str, arguments: argparse.Namespace) -> None:
    """What a child process does; prints a JSON object last."""
    folder = Path(arguments.folder)
    if step == "write":
        write_models(folder, arguments.params, arguments.experts)
        print(json.dumps({}))
    elif step == "measure":
        print(json.dumps(measure(folder, arguments.experts, arguments.method, arguments.device)))
    else:
        print(json.dumps({"mergekit_ms": measure_mergekit(folder, arguments.experts, arguments.method)}))


def table(device: str, params: float) -> dict[str, Any]:
    """Every method at one size, then ties over sizes and experts."""
    rows = [run(params, 3, method, device, mergekit=method in ("ties", "linear")) for method in METHODS]
    show(rows)
    sizes = [run(size, 3, "ties", device, mergekit=False) for size in (10e6, 30e6, 100e6, 300e6, 1e9)]
    show(sizes)
    counts = [run(params, experts, "ties", device, mergekit=False) for experts in (1, 2, 4, 8)]
    show(counts)
    return {"methods": rows, "sizes": sizes, "experts": counts}


def show(rows: list[dict[str, Any]]) -> None:
    """A table for readers."""
    keys = ("method", "params", "experts", "copy_gb_s", "merge_gb_s", "ratio_to_copy", "merge_ms", "first_ms")
    keys += ("slowest_ms", "statistics_s", "mergekit_ms", "speedup_vs_mergekit", "plan_gb", "peak_gb")
    print(" | ".join(keys))
    for row in rows:
        print(" | ".join(str(row[key]) for key in keys), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=135e6)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--method", default="ties")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        one_step(arguments.step, arguments)
    elif arguments.table:
        print(json.dumps(table(arguments.device, arguments.params)))
    else:
        result = run(
            arguments.params, arguments.experts, arguments.method, arguments.device, mergekit=not arguments.no_mergekit
        )
        print(json.dumps(result))


if __name__ == "__main__":
    main()
