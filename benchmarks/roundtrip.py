"""What mergekit makes of our mergekit.yaml, against our own weights: for every method: with the same numbers
everywhere, by layer, by module, by both, with repeated layers, and for methods with random masks without any drops.

    python benchmarks/roundtrip.py                      # tiny random models
    python benchmarks/roundtrip.py --models BASE EXPERT EXPERT [EXPERT] [--dtype bfloat16]

Prints a table and then one JSON object: {method: {case: {ulp, exact} or why there is no mergekit.yaml}}. `ulp` is the
largest difference in units in the last place of the exported dtype, counted at the size of the tensor's largest weight
and of the weight itself (`ulp_own`), `exact` the share of the weights that are the same bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Group, ModelRef, Recipe, StackLayer
from evomerge.runs.export import write_recipe
from evomerge.runs.mergekit_file import RANDOM
from evomerge.search.recipes import read_recipe
from tests.engine.tiny import family, llama

CASES = ("uniform", "layers", "modules", "both", "stack", "dense")
SMALLEST = {torch.float32: 2.0**-149, torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}


def numbers(method: str, names: list[str], shift: float = 0.0) -> dict[str, Any]:
    """Numbers of a group; another `shift` gives others."""
    told: dict[str, Any] = {}
    for spec in METHODS.get(method).parameters:
        if spec.kind != "number":
            continue
        if spec.name == "lambda" and method in ("sce", "ram"):
            continue
        if spec.name == "weight" and method == "karcher":
            continue
        if spec.per_expert and spec.name in ("density", "gamma", "epsilon"):
            values = {"density": 0.5, "gamma": 0.02, "epsilon": 0.1}
            told[spec.name] = {name: values[spec.name] + (shift + 0.03 * i) * 0.2 for i, name in enumerate(names)}
        elif spec.per_expert:
            told[spec.name] = {name: 0.3 + shift + 0.2 * i for i, name in enumerate(names)}
        elif spec.name != "epsilon":
            told[spec.name] = {"t": 0.3, "scale": 0.9, "lambda": 0.8, "select_topk": 0.5}.get(
                spec.name, spec.default
            ) + shift / 10
    return told


def groups(method: str, names: list[str], case: str, depth: int) -> tuple[Group, ...]:
    """The groups of a recipe."""
    if case == "dense":
        return (Group(parameters={**numbers(method, names), "density": 1.0}),)
    if case in ("uniform", "stack"):
        return (Group(parameters=numbers(method, names)),)
    spans: list[Any] = [[i, i + 1] for i in range(depth)] if case in ("layers", "both") else ["all"]
    modules = ("attention", "mlp", "other") if case in ("modules", "both") else ("all",)
    found = [
        Group(layers=span, modules=module, parameters=numbers(method, names, 0.02 * (i + 3 * j) / depth))
        for i, span in enumerate(spans)
        for j, module in enumerate(modules)
    ]
    return (*found, Group(parameters=numbers(method, names, 0.07)))


def recipes(method: str, models: list[ModelRef], dtype: str, depth: int) -> Iterator[tuple[str, Recipe]]:
    """One recipe for each case."""
    experts = models[1 : 1 + (METHODS.get(method).max_experts or len(models))]
    names = [expert.name for expert in experts]
    stack = tuple(StackLayer(layer=layer) for layer in [*range(depth - 1), *range(1, depth)])
    for case in CASES if method in RANDOM else CASES[:-1]:
        yield (
            case,
            Recipe(
                base=models[0],
                experts=tuple(experts),
                method=method,
                groups=groups(method, names, case, depth),
                dtype=dtype,  # type: ignore[arg-type]
                stack=stack if case == "stack" else None,
            ),
        )


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def run_mergekit(config: Path, to: Path) -> None:
    """Merge with mergekit."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    logging.disable(logging.WARNING)
    raw = MergeConfiguration.model_validate(yaml.safe_load(config.read_text()))
    with contextlib.redirect_stderr(io.StringIO()):
        run_merge(raw, str(to), MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """{ulp, ulp_own, exact} of two checkpoints."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"tensors must be the same, but {sorted(ours.keys() ^ theirs.keys())[:3]} are in one only")
    largest, own, same, total = 0.0, 0.0, 0, 0
    for name, tensor in ours.items():
        other = theirs[name]
        if tensor.dtype != other.dtype:
            raise ValueError(f"dtypes must be the same, but {name} is {tensor.dtype} and {other.dtype}")
        a, b = tensor.double(), other.double()
        gap = (a - b).abs()
        eps, smallest = torch.finfo(tensor.dtype).eps, SMALLEST[tensor.dtype]
        unit = torch.exp2(torch.floor(torch.log2(torch.maximum(a.abs(), b.abs()).clamp(min=1e-37)))) * eps
        largest = max(largest, float(gap.max() / max(float(unit.max()), smallest)))
        own = max(own, float((gap / unit.clamp(min=smallest)).max()))
        same, total = same + int((tensor == other).sum()), total + tensor.numel()
    return {"ulp": round(largest, 2), "ulp_own": round(own, 2), "exact": same / total}


def round_trip(recipe: Recipe, folder: Path) -> dict[str, Any] | str:
    """The differences between our weights and mergekit's, or why there is no mergekit.yaml.

    Raises:
        ValueError: the file reads back as another merge.
    """
    write_recipe(recipe, folder / "ours", "cpu", accept_licence=True)
    path = folder / "ours" / "mergekit.yaml"
    if not path.exists():
        card = (folder / "ours" / "README.md").read_text()
        return card.partition("mergekit cannot express ")[2].partition(". `evomerge.json`")[0]
    run_mergekit(path, folder / "theirs")
    found: dict[str, Any] = compare(tensors(folder / "ours"), tensors(folder / "theirs"))
    write_recipe(read_recipe(path), folder / "again", "cpu", accept_licence=True)
    digests = {
        json.loads((folder / each / "evomerge.json").read_text())["weights"]["digest"] for each in ("ours", "again")
    }
    return {**found, "reads_back": len(digests) == 1}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--methods", nargs="+", default=list(METHODS.names()))
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    given = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        if given.models:
            models = [ModelRef(model=model) for model in given.models]
        else:
            models = family(Path(place) / "zoo", llama(tie_word_embeddings=False, num_hidden_layers=4))
        depth = json.loads((Path(models[0].model) / "config.json").read_text())["num_hidden_layers"]
        for method in given.methods:
            for case, recipe in recipes(method, models, given.dtype, depth):
                if case not in given.cases:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    found = round_trip(recipe, Path(folder))
                told.setdefault(method, {})[case] = found
                cell = found if isinstance(found, str) else "  ".join(f"{k} {v:.6g}" for k, v in found.items())
                print(f"{method:18}{case:10}{cell}", flush=True)
    print(json.dumps({"dtype": given.dtype, "models": given.models, "methods": told}))


if __name__ == "__main__":
    main()
