"""What further processes on a host cost when they merge the same models: time to load, memory that is theirs alone.

    python benchmarks/shared.py --params 135e6 --experts 3 --workers 3 --method ties

A random Llama in bfloat16 and its experts are written to a temporary folder. Processes start one after the other and
stay; each loads the models and merges two candidates. Once with what they share, once each for itself. Memory is read
when all are there: `pss` counts what several processes share once between them, `uss` what one has alone. Bytes of the
plan are those of `evomerge.engine.memory`. Prints one JSON object last; alone on the machine times mean something.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from merge import numbers_for, write_models


def work(folder: Path, shared: Path | None, experts: int, workers: int, method: str) -> None:
    """In a process of its own: load and merge, say how long it took, and stay until standard input ends."""
    import torch

    from evomerge.engine import Group, Merger, ModelRef, Recipe

    torch.set_num_threads(1)
    refs = [ModelRef(model=str(folder / name)) for name in ("base", *(f"expert{i + 1}" for i in range(experts)))]
    merger = Merger(refs[0], refs[1:], "bfloat16", "cpu", methods=(method,), shared=shared, workers=workers, load=False)
    before = memory()
    told: dict[str, Any] = {"load_s": timed(merger.load)}
    for k, name in enumerate(("first_s", "second_s")):
        groups = (Group(parameters=numbers_for(method, k)),)
        recipe = Recipe(base=refs[0], experts=tuple(refs[1:]), method=method, groups=groups)
        told[name] = timed(lambda recipe=recipe: merger.apply(recipe))
    print(json.dumps({**told, "plan_gb": merger.memory.host / 1e9}), flush=True)
    sys.stdin.readline()
    after = memory()
    print(json.dumps({key: round((after[key] - before[key]) / 1e9, 3) for key in after}), flush=True)
    sys.stdin.readline()


def memory() -> dict[str, int]:
    """Bytes of this process, by /proc/self/smaps_rollup."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = {key: int(value) * 1024 for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return {"pss_gb": found["Pss"], "uss_gb": found["Private_Clean"] + found["Private_Dirty"]}


def timed(do: Any) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    do()
    return round(time.perf_counter() - start, 3)


def processes(folder: Path, shared: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What each of the processes tells, in the order in which they start."""
    command = [sys.executable, __file__, "--work", str(folder), "--shared", shared]
    command += ["--experts", str(arguments.experts), "--workers", str(arguments.workers), "--method", arguments.method]
    started, told = [], []
    try:
        for _ in range(arguments.workers):
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            told.append(answer(started[-1]))
        for process, own in zip(started, told, strict=True):
            own.update(answer(process, "memory\n"))
    finally:
        for process in started:
            process.kill()
            process.wait()
    return told


def answer(process: subprocess.Popen[str], question: str = "") -> dict[str, Any]:
    """The next line of a process, as JSON."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question)
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=float, default=135e6)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--method", default="ties")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--shared", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        shared = Path(arguments.shared) if arguments.shared else None
        work(Path(arguments.work), shared, arguments.experts, arguments.workers, arguments.method)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), arguments.params, arguments.experts)
        weights = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        result = {
            "sources_gb": round(weights / 1e9, 3),
            "shared": processes(Path(folder), str(Path(folder) / "shared"), arguments),
            "alone": processes(Path(folder), "", arguments),
        }
    for key in ("shared", "alone"):
        for number, told in enumerate(result[key]):
            print(key, number, told, file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
