"""A landscape to search on without models: what candidates would solve, fitted to recorded document scores.

    python benchmarks/landscape.py fit      # from the recordings in benchmarks/data; writes landscape.json; minutes
    python benchmarks/landscape.py check    # how well it predicts candidates that it has not seen; prints JSON

A candidate is its 27 weights (of each expert: attention by layer, the rest by layer, outside of layers). Each task has
two skills, which small networks give as functions of the weights; a document is solved with the probability that item
response theory has (Reckase, Multidimensional Item Response Theory, 2009, equation 4.5):

    logit P(solved) = a1 s1 + a2 s2 + b,    a1 > 0

The networks are an ensemble, each trained on its own bootstrap sample of the candidates; s1 is their mean less
`CAUTION` standard deviations, and less `DISTRUST` times the square of what the candidate lies farther than `TRUSTED`
from all recorded ones (root mean square over the weights, in units of their range): networks make peaks where there
are no data, and a peak .34 away claimed .73 and had .46 with the models. An outcome is drawn with a number that is
hashed from (seed, candidate, document): who is scored twice gets the same.

The recordings are made by benchmarks/record.py: without options; and with `--series random:per_layer:160 --seed 1`. A
third, quickstart_near.jsonl (`--series near:per_layer:300 --seed 2 --near benchmarks/data/quickstart.jsonl`), is not
fitted to: it shows what the landscape is worth near the best candidates (R^2 of the objective 0.82). Its own
optimum, 0.706, scores 0.648 with the models, whose best recorded candidate has 0.708.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from evomerge.engine.recipe import Recipe

DATA = Path(__file__).resolve().parent / "data"
PATH = DATA / "landscape.json"
RECORDINGS = ("quickstart.jsonl", "quickstart_random.jsonl", "quickstart_near.jsonl")
LAYERS = 4
HIGHEST = 1.3  # of a weight; the lowest is 0
MEMBERS, HIDDEN, SKILLS = 6, 40, 2
CAUTION = 1.0
TRUSTED, DISTRUST = 0.15, 33.0
FOLDS = 5

Array = NDArray[np.float64]


class Recording(NamedTuple):
    """Candidates with all their outcomes.

    Attributes:
        experts: names in the order of the weights.
        tasks: names and metrics.
        weights: [n, 27].
        solved: 0 or 1, [n, documents]; task after task.
        sizes: documents of each task.
        series: where each candidate comes from.
    """

    experts: tuple[str, ...]
    tasks: tuple[tuple[str, str], ...]
    weights: Array
    solved: Array
    sizes: tuple[int, ...]
    series: tuple[str, ...]


class Landscape:
    """What a candidate can be expected to solve.

    Args:
        told: what `fit` writes.
    """

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.experts: tuple[str, ...] = tuple(told["experts"])
        self.tasks: tuple[tuple[str, str], ...] = tuple((task, metric) for task, metric in told["tasks"])
        self.sizes: tuple[int, ...] = tuple(told["sizes"])
        self._task_of = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self._layers = [tuple(np.array(each) for each in layer) for layer in told["network"]]
        self._seen = np.array(told["seen"]) / 100 / HIGHEST
        self._slopes, self._offsets = np.array(told["slopes"]), np.array(told["offsets"])
        self.best_weights: Array = np.array(told.get("best", {}).get("weights", self.uniform_weights))

    @classmethod
    def load(cls, path: Path = PATH) -> Landscape:
        """The committed one."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def dimensions(self) -> int:
        """Weights of a candidate."""
        return len(self.experts) * (2 * LAYERS + 1)

    @property
    def documents(self) -> int:
        """Of all tasks."""
        return sum(self.sizes)

    @property
    def uniform_weights(self) -> Array:
        """The uniform merge."""
        return np.full(self.dimensions, 1 / len(self.experts))

    def probabilities(self, weights: Array) -> Array:
        """The probability that each document is solved, [n, documents], by candidates with `weights` [n, 27]."""
        skills = self._skills(np.atleast_2d(weights))
        logits = np.einsum("ndr,dr->nd", skills[:, self._task_of], self._slopes) + self._offsets
        return np.asarray(1 / (1 + np.exp(-logits)))

    def truth(self, weights: Array, held_out: NDArray[np.bool_] | None = None) -> Array:
        """The expected objective [n], the mean over tasks, on the documents that `held_out` [documents] marks."""
        found, kept = self.probabilities(weights), np.ones(self.documents, bool) if held_out is None else held_out
        tasks = [kept & (self._task_of == task) for task in range(len(self.sizes))]
        return np.asarray(np.mean([found[:, documents].mean(axis=1) for documents in tasks], axis=0))

    def outcomes(self, weights: Array, candidate: str, seed: int) -> NDArray[np.bool_]:
        """Whether each document is solved, [documents], by the candidate with the digest `candidate`."""
        word = hashlib.sha256(f"{seed} {candidate}".encode()).digest()
        drawn = np.random.default_rng(list(word)).random(self.documents)
        return np.asarray(drawn < self.probabilities(weights)[0])

    def weights_of(self, recipe: Recipe) -> Array:
        """The 27 weights of a recipe; the first of its groups that holds a parameter counts."""
        rows = []
        places = [*((modules, layer) for modules in ("attention", "mlp") for layer in range(LAYERS)), ("outside", None)]
        for modules, layer in places:
            group = next(
                each
                for each in recipe.groups
                if each.modules in ("all", modules)
                and (each.layers == "all" or (each.layers == "outside") == (layer is None))
                and (isinstance(each.layers, str) or each.layers[0] <= layer < each.layers[1])
            )
            weight = group.parameters["weight"]
            rows.append([weight[name] if isinstance(weight, Mapping) else weight for name in self.experts])
        return np.array(rows).T.ravel()

    def _skills(self, weights: Array) -> Array:
        """[n, tasks, SKILLS]."""
        values = np.broadcast_to(2 * weights / HIGHEST - 1, (MEMBERS, *weights.shape))
        for number, (matrix, bias) in enumerate(self._layers):
            values = values @ matrix + bias[:, None]
            values = np.tanh(values) if number < len(self._layers) - 1 else values
        skills = values.mean(axis=0).reshape(len(weights), len(self.sizes), SKILLS)
        spread = values.std(axis=0).reshape(skills.shape)
        skills[:, :, 0] -= CAUTION * spread[:, :, 0]
        skills[:, :, 0] -= DISTRUST * np.maximum(self._distance(weights) - TRUSTED, 0.0)[:, None] ** 2
        return np.asarray(skills)

    def _distance(self, weights: Array) -> Array:
        """From the nearest recorded candidate, [n]."""
        points = weights / HIGHEST
        squares = (points**2).sum(1)[:, None] + (self._seen**2).sum(1) - 2 * points @ self._seen.T
        return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0.0) / points.shape[1]))


def load(paths: Sequence[Path]) -> Recording:
    """Recordings of one case together, each candidate once."""
    rows: dict[tuple[float, ...], tuple[Array, str]] = {}
    for path in paths:
        header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        tasks = [each["task"] for each in header["tasks"]]
        for line in lines:
            weights = _in_full(line["weights"], len(header["series"][line["series"]]["dimensions"]))
            bits = np.array([bit == "1" for task in tasks for bit in line["scores"][task]], dtype=np.float64)
            rows.setdefault(tuple(weights), (bits, line["series"]))
    names = next(of["dimensions"] for of in header["series"].values())
    experts = tuple(dict.fromkeys(name.split("[")[1].split("]")[0] for name in names))
    return Recording(
        experts=experts,
        tasks=tuple((each["task"], each["metric"]) for each in header["tasks"]),
        weights=np.array(list(rows)),
        solved=np.array([bits for bits, _ in rows.values()]),
        sizes=tuple(each["documents"] for each in header["tasks"]),
        series=tuple(series for _, series in rows.values()),
    )


def _in_full(weights: Sequence[float], dimensions: int) -> Sequence[float]:
    """The 27 weights of a candidate of a series per layer, or with one number for all layers."""
    if dimensions != 6:
        return weights
    pairs = np.reshape(weights, (3, 2))
    return [each for attention, rest in pairs for each in [attention] * LAYERS + [rest] * (LAYERS + 1)]


def fit(recording: Recording, steps: int = 5000, batch: int = 128, seed: int = 0) -> dict[str, Any]:
    """The parameters of a landscape, by maximum likelihood with weight decay (Adam, falling rate)."""
    import torch

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    count, width = recording.weights.shape
    inputs = torch.tensor(2 * recording.weights / HIGHEST - 1, dtype=torch.float32)
    solved = torch.tensor(recording.solved, dtype=torch.float32)
    task_of = torch.tensor(np.repeat(np.arange(len(recording.sizes)), recording.sizes))
    sizes = [width, HIDDEN, HIDDEN, len(recording.sizes) * SKILLS]
    network = [
        [torch.randn(MEMBERS, a, b).div(a**0.5).requires_grad_(), torch.zeros(MEMBERS, b).requires_grad_()]
        for a, b in pairwise(sizes)
    ]
    raw = torch.zeros(len(task_of), SKILLS)
    raw[:, 1] = torch.randn(len(task_of)) * 0.1
    raw.requires_grad_()
    offsets = torch.zeros(len(task_of), requires_grad=True)
    counts = torch.tensor(generator.poisson(1.0, (MEMBERS, count)), dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        [
            {"params": [each for layer in network for each in layer], "weight_decay": 0.3},
            {"params": [raw, offsets], "weight_decay": 0.05},
        ],
        lr=4e-3,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.tensor(generator.integers(count, size=batch))
        values = inputs[chosen].expand(MEMBERS, -1, -1)
        for number, (matrix, bias) in enumerate(network):
            values = values @ matrix + bias[:, None]
            values = torch.tanh(values) if number < len(network) - 1 else values
        slopes = torch.stack([torch.nn.functional.softplus(raw[:, 0]), raw[:, 1]], 1)
        skills = values.reshape(MEMBERS, batch, len(recording.sizes), SKILLS)[:, :, task_of]
        logits = (skills * slopes).sum(-1) + offsets
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, solved[chosen].expand_as(logits), reduction="none"
        ).mean(-1)
        loss = (losses * counts[:, chosen]).mean() + 1e-4 * (skills[:, :, :, 1] ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        "experts": recording.experts,
        "tasks": recording.tasks,
        "sizes": recording.sizes,
        "seen": np.round(100 * recording.weights).astype(int).tolist(),
        "network": [[_rounded(each) for each in layer] for layer in network],
        "slopes": _rounded(slopes),
        "offsets": _rounded(offsets),
    }


def _rounded(values: Any) -> Any:
    return np.round(values.detach().double().numpy(), 3).tolist()


def best_known(landscape: Landscape, starts: Array) -> tuple[Array, float]:
    """The highest expected objective over the box that L-BFGS-B finds from `starts` [n, 27] and random points."""
    generator = np.random.default_rng(0)
    width = landscape.dimensions
    draws = np.vstack([starts, generator.uniform(0, HIGHEST, (20, width))])
    found = []
    for start in draws:

        def loss(weights: Array) -> tuple[float, Array]:
            steps = np.vstack([weights, weights + 1e-4 * np.eye(width)])
            values = landscape.truth(steps)
            return -float(values[0]), -(values[1:] - values[0]) / 1e-4

        result = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, HIGHEST)] * width)
        found.append((-float(result.fun), result.x))
    value, weights = max(found, key=lambda each: each[0])
    return np.round(weights, 4), value


def check(recording: Recording) -> dict[str, Any]:
    """The quality of predictions for candidates left out, in `FOLDS` folds."""
    fold_of = np.random.default_rng(0).integers(FOLDS, size=len(recording.weights))
    predicted = np.zeros_like(recording.solved)
    for fold in range(FOLDS):
        kept = fold_of != fold
        part = recording._replace(weights=recording.weights[kept], solved=recording.solved[kept])
        predicted[~kept] = Landscape(fit(part)).probabilities(recording.weights[~kept])
    return quality(recording, predicted)


def quality(recording: Recording, predicted: Array) -> dict[str, Any]:
    """How well probabilities [n, documents] fit the recording."""
    ends = np.cumsum(recording.sizes)[:-1]
    means = np.array([part.mean(axis=1) for part in np.split(recording.solved, ends, axis=1)])
    guesses = np.array([part.mean(axis=1) for part in np.split(predicted, ends, axis=1)])
    total, guess = means.mean(axis=0), guesses.mean(axis=0)
    top = np.argsort(-total)[: len(total) // 5]
    bins = np.digitize(predicted, np.linspace(0, 1, 11)[1:-1])
    series = np.array(recording.series)
    return {
        "candidates": len(total),
        "r2_tasks": [
            round(1 - float(np.mean((m - g) ** 2) / np.var(m)), 3) for m, g in zip(means, guesses, strict=True)
        ],
        "r2_objective": round(1 - float(np.mean((total - guess) ** 2) / np.var(total)), 3),
        "rmse_objective_by_series": {
            name: round(float(np.sqrt(np.mean((total - guess)[series == name] ** 2))), 4)
            for name in dict.fromkeys(series)
        },
        "rank_correlation_best_fifth": round(_spearman(total[top], guess[top]), 3),
        "bias_best_fifth": round(float((guess - total)[top].mean()), 4),
        "calibration": [
            [round(float(predicted[bins == b].mean()), 3), round(float(recording.solved[bins == b].mean()), 3)]
            for b in range(10)
        ],
    }


def _spearman(first: Array, second: Array) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(second)))[0, 1])


def write(recording: Recording, path: Path) -> Landscape:
    """Fit, find the best known, and keep both."""
    told = fit(recording)
    landscape = Landscape(told)
    order = np.argsort(-recording.solved.mean(axis=1))[:30]
    weights, value = best_known(landscape, recording.weights[order])
    told["best"] = {"weights": weights.tolist(), "objective": round(value, 4)}
    told["uniform"] = round(float(landscape.truth(landscape.uniform_weights)[0]), 4)
    told["recipe"] = f"python benchmarks/landscape.py fit, of {len(recording.weights)} candidates"
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(told, separators=(",", ":")) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return Landscape(told)


def main() -> None:
    """Fit or check."""
    parser = argparse.ArgumentParser(description="A landscape fitted to recorded document scores.")
    parser.add_argument("verb", choices=["fit", "check"])
    parser.add_argument("--data", nargs="+", type=Path, default=[DATA / name for name in RECORDINGS])
    parser.add_argument("--out", type=Path, default=PATH)
    options = parser.parse_args()
    recording = load(options.data)
    if options.verb == "check":
        print(json.dumps(check(recording)))
        return
    landscape = write(recording, options.out)
    print(json.dumps(quality(recording, landscape.probabilities(recording.weights))))
    found = landscape.truth(np.vstack([landscape.best_weights, landscape.uniform_weights]))
    print(f"best known {found[0]:.4f}, uniform {found[1]:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
