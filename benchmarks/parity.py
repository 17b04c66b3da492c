"""How far each merge method is from the plain float64 oracle, and from mergekit where that has it.

    python benchmarks/parity.py [--size 256] [--seeds 3]

Float32 tensors of size x size and experts half as far from the base as the base is from zero; the cases are those of
tests/engine/oracles.py. Prints a table of the worst absolute differences, and one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evomerge.engine.compiled import Launcher
from evomerge.engine.method import METHODS
from evomerge.engine.reference import reference_merge
from tests.engine.oracles import CASES, SEED, mergekit_merge, values_in
from tests.engine.test_conformance import EASY, experts_of, tensors
from tests.engine.tiny import PARAMETER, defaults, engine_merge


def worst(name: str, size: int, seed: int) -> dict[str, float | None]:
    """The largest differences over the cases of one method."""
    method = METHODS.get(name)
    experts = experts_of(method)
    found: dict[str, float | None] = {"oracle": 0.0, "mergekit": 0.0 if name in CASES else None, "compiled": 0.0}
    for case in CASES.get(name, [{}]):
        base, models = tensors((size, size), seed=seed, experts=experts, spread=case.get("spread", 0.5))
        values = values_in(name, case, experts) if name in CASES else defaults(method, experts, **EASY)
        got = engine_merge(method, base, models, values, seed=SEED)
        others = {
            "oracle": reference_merge(name, base, models, values, parameter=PARAMETER, seed=SEED),
            "compiled": engine_merge(method, base, models, values, seed=SEED, launcher=Launcher(0)),
        }
        if name in CASES:
            others["mergekit"] = mergekit_merge(name, base, models, values)
        for label, other in others.items():
            found[label] = max(found[label] or 0.0, float((got.double() - other.double()).abs().max()))
    return found


def main() -> None:
    """Print the table and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    told: dict[str, Any] = {}
    print(f"{'method':18}{'from the oracle':>18}{'from mergekit':>18}{'compiled - eager':>18}")
    for name in METHODS.names():
        runs = [worst(name, given.size, seed) for seed in range(given.seeds)]
        columns = ("oracle", "mergekit", "compiled")
        told[name] = {c: None if runs[0][c] is None else max(run[c] or 0.0 for run in runs) for c in columns}
        cells = ("-" if told[name][c] is None else f"{told[name][c]:.1e}" for c in columns)
        print(f"{name:18}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    print(json.dumps({"size": given.size, "seeds": given.seeds, "torch": torch.__version__, "worst": told}))


if __name__ == "__main__":
    main()
