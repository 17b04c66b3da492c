"""What races save and what they cost, on recorded document scores and in simulation; what subsets are worth.

    python benchmarks/racing.py [--data benchmarks/data/quickstart.jsonl] [--orders 20] [--error 0.2] [--part replay]

replay: the candidates of each recorded series (benchmarks/record.py) in their order, 40 % of each task's documents as
`search`, in 20 random orders of the documents; the winner is judged on the other 60 %. worst: the same for that
objective, in a quarter of the orders. simulation: how often a candidate exactly as good as the incumbent, or better by
just the margin, is stopped. subset: the error of the objective estimated from the documents chosen, as shown when they
are chosen and as found on later candidates. Prints tables, and one JSON object last. One thread, about two minutes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric
from evomerge.evaluators.config import Racing
from evomerge.evaluators.objective import Objective, combine
from evomerge.evaluators.splits import rungs
from evomerge.search.estimate import estimates
from evomerge.search.racing import Race
from evomerge.search.subset import choose_subset

SEARCH = 0.4  # the share of documents that candidates are scored on
CHOSEN_AFTER = 12  # candidates, the warm starts among them, from which subsets are chosen
CHUNK, FIRST = 64, 8  # of rungs, as the evaluator plans them
ROOT = Path(__file__).resolve().parents[1]

Bits = NDArray[np.float64]


class Series(NamedTuple):
    """One recorded search: its tasks and the 0/1 scores of its candidates in order, C x T x D."""

    name: str
    tasks: tuple[TaskMetric, ...]
    bits: Bits


def load(path: Path) -> list[Series]:
    """The series of a recording."""
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    tasks = tuple(TaskMetric(each["task"], each["metric"]) for each in header["tasks"])
    found = []
    for name in header["series"]:
        of_series = [[list(row["scores"][task.task]) for task in tasks] for row in rows if row["series"] == name]
        found.append(Series(name, tasks, np.array(of_series, dtype=np.float64)))
    return found


class Case:
    """Candidates on the documents of `search`, which are seen in the order given.

    Args:
        tasks: T tasks.
        search: 0/1 scores, C x T x N.
        held_out: their scores on other documents; C x T x any.
    """

    def __init__(self, tasks: tuple[TaskMetric, ...], search: Bits, held_out: Bits) -> None:
        self.tasks, self.search, self.held_out = tasks, search, held_out
        self.count, _, self.size = search.shape
        of_task = {
            task.task: [Document(task.task, f"{place:05d}", place, "search") for place in range(self.size)]
            for task in tasks
        }
        self.documents = [document for documents in of_task.values() for document in documents]
        self.plan = rungs(of_task, CHUNK, FIRST)
        self.seen = [int(end) for end in np.cumsum([len(rung[0]) for rung in self.plan])]
        self._rows = [
            [[DocumentScore(d.task, d.key, task.label, bit) for bit in (0.0, 1.0)] for d in of_task[task.task]]
            for task in tasks
        ]

    @classmethod
    def of(cls, series: Series, order: int) -> Case:
        """A series with its documents split and shuffled."""
        generator = np.random.default_rng(order)
        _, tasks, size = series.bits.shape
        places = np.array([generator.permutation(size) for _ in range(tasks)])
        shuffled = np.take_along_axis(series.bits, places[None], axis=2)
        kept = round(SEARCH * size)
        return cls(series.tasks, shuffled[:, :, :kept], shuffled[:, :, kept:])

    def scores(self, candidate: int, seen: int | None = None) -> Scores:
        """The candidate's scores on the first `seen` documents of each task."""
        bits = self.search[candidate, :, :seen].astype(int)
        pairs = zip(self._rows, bits, strict=True)
        return Scores(tuple(rows[place][bit] for rows, of_task in pairs for place, bit in enumerate(of_task)))

    def objectives(self, bits: Bits, kind: Objective) -> Bits:
        """Of all candidates, C."""
        return combine(list(bits.mean(axis=2).T), self.tasks, kind)


class Stopped(NamedTuple):
    """A raced-out candidate: its full objective, the partial mean, the paired difference and what is told."""

    truth: float
    partial: float
    paired: float
    told: float
    better: bool


def replay(case: Case, kind: Objective, racing: Racing) -> dict[str, Any]:
    """One search with racing: the first candidate is scored in full, every other one raced against the best so far."""
    race = Race(case.tasks, kind, racing, case.plan)
    truths, held_out = case.objectives(case.search, kind), case.objectives(case.held_out, kind)
    full = {0: case.scores(0)}
    best, documents, better, stopped = 0, case.size, 0, []
    for candidate in range(1, case.count):
        ranking = sorted(full, key=lambda place: -truths[place])
        peers = [full[place] for place in ranking if place != best][:7]
        is_better = bool(truths[candidate] > truths[best] + racing.margin)
        better += is_better
        for look, seen in enumerate(case.seen):
            part = case.scores(candidate, seen)
            verdict = race.verdict(part, full[best], look, peers)
            if verdict.stop:
                told = [each.value for each in estimates(case.tasks, list(full.values()), part, case.documents)]
                partial = case.search[candidate, :, :seen].mean(axis=1)
                paired = partial + (case.search[best].mean(axis=1) - case.search[best, :, :seen].mean(axis=1))
                of = [
                    float(combine([np.float64(m) for m in means], case.tasks, kind))
                    for means in (partial, paired, told)
                ]
                stopped.append(Stopped(float(truths[candidate]), *of, is_better))
                break
        documents += seen
        if not verdict.stop:
            full[candidate] = part
            best = candidate if truths[candidate] > truths[best] else best
    winner = int(np.argmax(truths))
    return {
        "share": documents / (case.count * case.size),
        "winner_full": float(held_out[winner]),
        "winner_racing": float(held_out[best]),
        "better": better,
        "stopped": stopped,
    }


def replays(series: Series, kind: Objective, orders: int, racing: Racing) -> dict[str, Any]:
    """The means over orders of the documents."""
    runs = [replay(Case.of(series, order), kind, racing) for order in range(orders)]
    stopped = [each for run in runs for each in run["stopped"]]
    truth, partial, paired, told, better = np.array(stopped).T
    mean = {key: float(np.mean([run[key] for run in runs])) for key in ("share", "winner_full", "winner_racing")}
    return {
        "series": series.name,
        "objective": kind,
        "orders": orders,
        "candidates": len(series.bits),
        "documents_share": round(mean["share"], 3),
        "winner_full": round(mean["winner_full"], 4),
        "winner_racing": round(mean["winner_racing"], 4),
        "loss_points": round(100 * (mean["winner_full"] - mean["winner_racing"]), 2),
        "error_stated": racing.error,
        "error_measured": round(float(better.sum()) / max(sum(run["better"] for run in runs), 1), 3),
        "raced_out": len(stopped) // orders,
        "bias_partial_points": round(100 * float(np.mean(partial - truth)), 2),
        "bias_paired_points": round(100 * float(np.mean(paired - truth)), 2),
        "bias_told_points": round(100 * float(np.mean(told - truth)), 2),
        "rmse_paired_points": round(100 * float(np.sqrt(np.mean((paired - truth) ** 2))), 2),
        "rmse_told_points": round(100 * float(np.sqrt(np.mean((told - truth) ** 2))), 2),
        "correlation_paired": round(float(np.corrcoef(paired, truth)[0, 1]), 3),
        "correlation_told": round(float(np.corrcoef(told, truth)[0, 1]), 3),
    }


class Null(NamedTuple):
    """Pairs of models of which the second is better by exactly `gain`: documents a task, tasks, the first's accuracy,
    the share of documents that are drawn anew for the second, peers that predict documents."""

    size: int
    tasks: int
    rate: float
    changed: float
    peers: int = 0
    gain: float = 0.0


NULLS = (
    *(
        Null(size, tasks, rate, changed, peers)
        for size, tasks, peers in ((24, 1, 0), (60, 3, 0), (160, 3, 0), (160, 3, 5), (400, 1, 0), (400, 2, 5))
        for rate, changed in ((0.05, 1.0), (0.5, 1.0), (0.5, 0.2), (0.95, 0.5))
    ),
    Null(160, 3, 0.5, 0.5, 0, 0.02),
    Null(160, 3, 0.9, 0.5, 5, 0.01),
)


def pair(generator: np.random.Generator, null: Null) -> Iterator[Bits]:
    """The first model's scores, the second's, and those of peers: T x N each."""
    shape = (null.tasks, null.size)
    first = generator.random(shape) < null.rate
    second = np.where(generator.random(shape) < null.changed, generator.random(shape) < null.rate, first)
    surplus = int(second.sum()) - int(first.sum()) - math.ceil(null.gain * first.size - 1e-9)
    while surplus:
        places = np.flatnonzero(second.ravel() == (surplus > 0))
        differ = places[(second != first).ravel()[places]]
        second.ravel()[generator.choice(differ if len(differ) else places)] ^= True
        surplus -= 1 if surplus > 0 else -1
    yield first.astype(np.float64)
    yield second.astype(np.float64)
    for _ in range(null.peers):
        yield np.where(generator.random(shape) < 0.3, generator.random(shape) < null.rate, first).astype(np.float64)


def simulate(null: Null, racing: Racing, seed: int, repeats: int) -> dict[str, Any]:
    """How often a candidate is stopped, with the 95 % interval of Wilson (1927) over the repeats."""
    generator, stops = np.random.default_rng(seed), 0
    tasks = tuple(TaskMetric(f"t{number}", "acc") for number in range(null.tasks))
    racing = racing.model_copy(update={"margin": null.gain})
    race: Race | None = None
    for _ in range(repeats):
        bits = np.array(list(pair(generator, null)))
        case = Case(tasks, bits, bits)
        race = race or Race(tasks, "mean", racing, case.plan)
        incumbent, peers = case.scores(0), [case.scores(2 + peer) for peer in range(null.peers)]
        looks = enumerate(case.seen)
        stops += any(race.verdict(case.scores(1, seen), incumbent, look, peers).stop for look, seen in looks)
    share, z = stops / repeats, 1.96
    middle, width = share + z**2 / (2 * repeats), z * math.sqrt(share * (1 - share) / repeats + (z / repeats / 2) ** 2)
    low, high = (middle - width) / (1 + z**2 / repeats), (middle + width) / (1 + z**2 / repeats)
    found = {
        "stated": racing.error,
        "measured": round(share, 3),
        "low": round(max(low, 0.0), 3),
        "high": round(high, 3),
    }
    return {**null._asdict(), "repeats": repeats, **found}


def subsets(series: Series, orders: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """For each size the errors over orders, in points: shown when chosen, found later, and of as many at random."""
    squares: dict[int, list[tuple[float, float, float, float]]] = {size: [] for size in sizes}
    autos = []
    for order in range(orders):
        case = Case.of(series, order)
        truths = case.objectives(case.search, "mean")
        full = [case.scores(candidate) for candidate in range(CHOSEN_AFTER)]
        autos.append(choose_subset(case.tasks, "mean", full, case.documents, "auto"))
        for size in sizes:
            subset = choose_subset(case.tasks, "mean", full, case.documents, size)
            later: list[tuple[float, float, float]] = []
            for candidate in range(CHOSEN_AFTER, case.count):
                seen = case.scores(candidate)
                first = seen.of([document for document in case.documents if document.index < size])
                of = [estimates(case.tasks, full, part, case.documents) for part in (seen.of(subset.documents), first)]
                told = [float(np.mean([each.value for each in means])) for means in of]
                plain = float(case.search[candidate, :, :size].mean())
                later.append(tuple(each - float(truths[candidate]) for each in (*told, plain)))  # type: ignore[arg-type]
            squares[size].append((subset.error**2, *np.mean(np.square(later), axis=0)))
    names = ("shown", "later", "random_estimated", "random_mean")
    rows: list[dict[str, Any]] = []
    for size, of_size in squares.items():
        points = (100 * np.sqrt(np.mean(of_size, axis=0))).round(2).tolist()
        rows.append({"series": series.name, "size": size, "of": case.size, **dict(zip(names, points, strict=True))})
    size, shown = (float(np.mean([each.size for each in autos])), float(np.mean([each.error for each in autos])))
    return [*rows, {"series": f"{series.name}, auto", "size": size, "of": case.size, "shown": round(100 * shown, 2)}]


def overall(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All series together: the share of all documents, and the mean loss of a series."""
    weights = [row["candidates"] for row in rows]
    return {
        "series": "all",
        "objective": rows[0]["objective"],
        "orders": rows[0]["orders"],
        "candidates": sum(weights),
        "documents_share": round(float(np.average([row["documents_share"] for row in rows], weights=weights)), 3),
        "loss_points": round(float(np.mean([row["loss_points"] for row in rows])), 2),
        "bias_told_points": round(float(np.average([row["bias_told_points"] for row in rows], weights=weights)), 2),
    }


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print dictionaries of the same keys as a table."""
    keys = list(rows[0])
    cells = [keys, *[[str(row.get(key, "")) for key in keys] for row in rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(keys))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(flush=True)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description="What races and subsets save and cost.")
    parser.add_argument("--data", type=Path, default=ROOT / "benchmarks" / "data" / "quickstart.jsonl")
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--error", type=float, default=Racing().error)
    parser.add_argument("--margin", type=float, default=Racing().margin)
    parser.add_argument("--repeats", type=int, default=150)
    parser.add_argument("--part", nargs="+", default=["replay", "worst", "simulation", "subset"])
    options = parser.parse_args()
    recorded, racing = load(options.data), Racing(error=options.error, margin=options.margin)
    found: dict[str, Any] = {"case": options.data.stem}
    for part, kind in (("replay", "mean"), ("worst", "worst")):
        if part in options.part:
            orders = options.orders if kind == "mean" else math.ceil(options.orders / 4)
            found[part] = [replays(series, kind, orders, racing) for series in recorded]  # type: ignore[arg-type]
            found[part].append(overall(found[part]))
            table(found[part])
    if "simulation" in options.part:
        found["simulation"] = [simulate(null, racing, seed, options.repeats) for seed, null in enumerate(NULLS)]
        table(found["simulation"])
    if "subset" in options.part:
        found["subset"] = [row for each in recorded[:2] for row in subsets(each, 2, (8, 16, 32, 64))]
        table(found["subset"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
