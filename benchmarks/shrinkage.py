"""What the choice of a winner costs and says, on recorded document scores: its luck, the final race, the early end.

    python benchmarks/shrinkage.py [--data benchmarks/data/quickstart.jsonl] [--orders 20] [--part luck final stop]

luck: of each recorded series (benchmarks/record.py) the best candidate by a share of each task's documents is taken,
in random orders of them; what the winner loses on the others, and what `search.shrinkage` says without them.
final: the best by 40 % of the documents race on 20 %; the share of those that is scored, how often the best on both
leaves, and what the winner has on the other 40 %, next to five finalists that are scored on all. stop: each series is
cut where `search.stopping` ends it; what the winner by expected objective then lacks on the other documents, and the
share of documents saved. Prints tables, in points, and one JSON object last. One thread, about five minutes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from racing import CHUNK, FIRST, ROOT, SEARCH, Series, load, table

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric
from evomerge.evaluators.splits import rungs
from evomerge.search.beliefs import beliefs
from evomerge.search.final_race import FinalRace
from evomerge.search.listener import Listener
from evomerge.search.sampling import distributions
from evomerge.search.shrinkage import Rival, shrinkage
from evomerge.search.stopping import LEAST, Stopping
from evomerge.search.study import NOISE, ORIGIN
from evomerge.spaces import Merge, Space
from evomerge.spaces.config import SpaceConfig

SELECT = 0.2
FINALISTS = (5, 8, 16)
SHARES = (0.1, 0.2, 0.4)

Bits = NDArray[np.float64]


def shuffled(series: Series, order: int) -> Bits:
    """The scores with each task's documents in a random order, C x T x D."""
    generator = np.random.default_rng(order)
    _, tasks, size = series.bits.shape
    places = np.array([generator.permutation(size) for _ in range(tasks)])
    return np.take_along_axis(series.bits, places[None], axis=2)


def scores_of(tasks: Sequence[TaskMetric], bits: Bits) -> Scores:
    """Of one candidate, T x n."""
    pairs = zip(tasks, bits, strict=True)
    return Scores(
        tuple(DocumentScore(t.task, f"{d:05d}", t.label, float(b)) for t, row in pairs for d, b in enumerate(row))
    )


def luck(series: Series, share: float, orders: int) -> dict[str, Any]:
    """The winner's real and expected shrinkage, in points."""
    rows = []
    for order in range(orders):
        bits = shuffled(series, order)
        kept = round(share * bits.shape[2])
        means, others = bits[:, :, :kept].mean(axis=(1, 2)), bits[:, :, kept:].mean(axis=(1, 2))
        winner = int(means.argmax())
        rivals = [Rival(scores_of(series.tasks, each[:, :kept])) for each in bits]
        found = shrinkage(series.tasks, "mean", rivals[winner], rivals[:winner] + rivals[winner + 1 :], order)
        error = (found.high - found.low) / 2 * math.sqrt(1 + share / (1 - share))  # the others are a sample, too
        rows.append((means[winner] - others[winner], found.luck, abs(found.expected - others[winner]) < error))
    real, expected, covered = np.array(rows, dtype=np.float64).T
    return {
        "series": series.name,
        "documents": kept,
        "orders": orders,
        "candidates": len(series.bits),
        "real": round(100 * float(real.mean()), 2),
        "expected": round(100 * float(expected.mean()), 2),
        "rms_without": round(100 * float(np.sqrt((real**2).mean())), 2),
        "rms_with": round(100 * float(np.sqrt(((real - expected) ** 2).mean())), 2),
        "covered": round(float(covered.mean()), 2),
    }


class Recorded:
    """Stands in for the evaluator and the scorer of a final: 40 % of the documents are `search`, 20 % `select`."""

    def __init__(self, tasks: Sequence[TaskMetric], bits: Bits) -> None:
        self.tasks = tuple(tasks)
        size = bits.shape[2]
        ends = round(SEARCH * size), round((SEARCH + SELECT) * size)
        self.search, self.select = bits[:, :, : ends[0]], bits[:, :, ends[0] : ends[1]]
        self.held_out = bits[:, :, ends[1] :].mean(axis=(1, 2))
        self.size = len(tasks) * self.select.shape[2]
        self._of_task = {
            task.task: [Document(task.task, f"{place:05d}", place, "select") for place in range(self.select.shape[2])]
            for task in tasks
        }

    def documents(self, split: str) -> tuple[Document, ...]:
        """Those of `select`."""
        return tuple(document for documents in self._of_task.values() for document in documents)

    def rungs(self, split: str) -> Any:
        """As an evaluator plans them."""
        return rungs(self._of_task, CHUNK, FIRST)

    def score(self, recipe: int, split: str, number: int) -> Scores:
        """On `search`; keys differ from those of `select`."""
        rows = scores_of(self.tasks, self.search[recipe]).documents
        return Scores(tuple(DocumentScore(r.task, f"s{r.document}", r.metric, r.value) for r in rows))

    def ahead(self, errands: Any) -> None:
        """Nobody helps."""

    def climb(self, recipe: int, plan: Any, split: str, number: int) -> Any:
        """On `select`, rung by rung."""
        whole, seen = scores_of(self.tasks, self.select[recipe]), []
        for rung in plan:
            seen += [document for chunk in rung for document in chunk]
            yield whole.of(seen)


def final(series: Series, finalists: int, orders: int) -> dict[str, Any]:
    """The race of so many finalists."""
    shares, lost, raced, all_of, five = [], [], [], [], []
    for order in range(orders):
        case = Recorded(series.tasks, shuffled(series, order))
        search, select = case.search.mean(axis=(1, 2)), case.select.mean(axis=(1, 2))
        pooled = (SEARCH * search + SELECT * select) / (SEARCH + SELECT)
        chosen = [int(place) for place in np.argsort(-search, kind="stable")[:finalists]]
        runners = FinalRace(case, case, True, Listener()).run({place: place for place in chosen})  # type: ignore[arg-type,misc]
        shares.append(sum(each.documents for each in runners.values()) / (len(chosen) * case.size))
        stayed = [place for place in chosen if not runners[place].is_out]
        best, winner = (max(places, key=lambda place: (pooled[place], -place)) for places in (chosen, stayed))
        lost.append(pooled[best] > pooled[winner])
        raced.append(case.held_out[winner])
        all_of.append(case.held_out[best])
        five.append(case.held_out[max(chosen[:5], key=lambda place: (pooled[place], -place))])
    return {
        "series": series.name,
        "finalists": finalists,
        "orders": orders,
        "documents_share": round(float(np.mean(shares)), 3),
        "as_full_finalists": round(float(np.mean(shares)) * finalists, 2),
        "best_left": round(float(np.mean(lost)), 3),
        "winner_raced": round(100 * float(np.mean(raced)), 2),
        "winner_full": round(100 * float(np.mean(all_of)), 2),
        "winner_of_five": round(100 * float(np.mean(five)), 2),
    }


def space_of(series: Series, layers: int, lows: float, highs: float, experts: Sequence[str]) -> Space:
    """The space that benchmarks/record.py searches."""
    models = [ModelRef(model=name) for name in experts]
    template = Recipe(base=ModelRef(model="base"), experts=tuple(models), method="task_arithmetic")
    config = SpaceConfig.model_validate(
        {"layers": series.name.split(":")[1], "modules": ["attention", "all"], "weight": [lows, highs]}
    )
    return Space(config, layers, [Merge(template, METHODS.get("task_arithmetic").parameters)])


def stop(path: Path, series: Series, orders: int) -> dict[str, Any]:
    """Where a series is cut, and what that costs."""
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    rows = [row for row in rows if row["series"] == series.name]
    names = header["series"][series.name]["dimensions"]
    experts = list(dict.fromkeys(name.split("[")[1].split("]")[0] for name in names))
    space = space_of(series, 4, 0.0, 1.3, experts)
    known = distributions(space)
    assert list(known) == names, "the recording must be of this space"
    ends, missed, steps = [], [], []
    for order in range(orders):
        bits = shuffled(series, order)
        kept = round(SEARCH * bits.shape[2])
        search, others = bits[:, :, :kept], bits[:, :, kept:].mean(axis=(1, 2))
        config = SimpleNamespace(
            search=SimpleNamespace(stop="auto", trials=len(rows)), evaluate=SimpleNamespace(objective="mean")
        )
        problem = SimpleNamespace(config=config, space=space, evaluator=SimpleNamespace(tasks=series.tasks))
        study = optuna.create_study(direction="maximize")
        stopping, end = Stopping(problem, study), 0  # type: ignore[arg-type]
        chosen = 0
        for place, row in enumerate(rows):
            noise = math.sqrt(float(search[place].var(axis=1).sum() / kept)) / len(series.tasks)
            attributes = {NOISE: noise} | ({} if row["origin"] == "sampler" else {ORIGIN: row["origin"]})
            params = dict(zip(names, row["weights"], strict=True))
            study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=known, value=float(search[place].mean()), user_attrs=attributes
                )
            )
            if not end and place + 1 >= LEAST and stopping.why(place + 1):
                end, chosen = place + 1, _believed_best(study, space, series)
        ends.append(end or len(rows))
        missed.append(others[_believed_best(study, space, series)] - others[chosen] if end else 0.0)
        steps.append(noise)
    return {
        "series": series.name,
        "orders": orders,
        "trials": len(rows),
        "stopped": sum(end < len(rows) for end in ends),
        "ends": f"{min(ends)}-{max(ends)}",
        "documents_saved": round(1 - float(np.mean(ends)) / len(rows), 3),
        "missed": round(100 * float(np.mean(missed)), 2),
        "noise": round(100 * float(np.mean(steps)), 2),
    }


def _believed_best(study: optuna.Study, space: Space, series: Series) -> int:
    believed = beliefs(study, space, series.tasks)
    return max(believed, key=lambda number: (believed[number].mean, -number))


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description="What the choice of a winner costs and says.")
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "quickstart.jsonl")
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--part", nargs="+", default=["luck", "final", "stop"])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recorded, found = load(options.data), {"case": options.data.stem}
    if "luck" in options.part:
        found["luck"] = [luck(series, share, options.orders) for series in recorded for share in SHARES]
        table(found["luck"])
    if "final" in options.part:
        found["final"] = [final(series, count, options.orders) for series in recorded for count in FINALISTS]
        table(found["final"])
    if "stop" in options.part:
        found["stop"] = [stop(options.data, series, max(1, options.orders // 5)) for series in recorded]
        table(found["stop"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
