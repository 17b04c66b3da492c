"""Records the document scores of candidates in the order in which searches proposed them, for benchmarks/racing.py.

    python benchmarks/record.py                                        # writes benchmarks/data/quickstart.jsonl
    python benchmarks/record.py --case FOLDER --series gp:uniform:100  # of another configuration, FOLDER/search.yaml
    python benchmarks/record.py --series near:per_layer:300 --near RECORDING --out FILE

Each series is SAMPLER:LAYERS:TRIALS, a search of its own with the configuration's warm starts in front; every candidate
is scored on all documents of each task. The sampler `near` is a plain evolution strategy for coverage of where searches
go: two of the best candidates so far, in this recording and in that of --near, are crossed and mutated. The first line
of the file says what made it; each further line is a candidate: its series, its numbers in the order of the series'
`dimensions`, and for each task one character a document in the order of the task's data, 1 where it is solved. Tasks
whose scores are not 0 or 1 are refused. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from sqlalchemy import create_engine

from evomerge.evaluators.evaluator import score_split
from evomerge.evaluators.types import Scores, TaskMetric
from evomerge.search.config import load_config
from evomerge.search.ledger import Ledger
from evomerge.search.problem import Problem, build_problem
from evomerge.search.proposals import Proposer
from evomerge.search.sampling import distributions
from evomerge.search.study import ORIGIN, TOLD
from evomerge.search.warm_starts import warm_starts

ROOT = Path(__file__).resolve().parents[1]
PARENTS = 24  # of the series `near`
SERIES = ("gp:uniform:80", "cmaes:per_layer:240", "gp:per_layer:80", "random:uniform:100")


class Known(NamedTuple):
    """A candidate's numbers, and its mean over the tasks."""

    weights: list[float]
    value: float


def problem_for(case: Path, layers: str, seed: int, batch_size: int) -> Problem:
    """The configuration's search over weights per layer group and module, with every document in `search`."""
    config = load_config(
        case / "search.yaml",
        [
            f"space={{layers: {layers}, modules: [attention, all], weight: [0.0, 1.3]}}",
            "evaluate.splits={search: 1.0, select: 0.0, report: 0.0}",
            "evaluate.racing=false",
            f"evaluate.batch_size={batch_size}",
            f"search.seed={seed}",
            "search.warm_start=[uniform, experts, sweep]",
        ],
    )
    return build_problem(config)


def candidates(problem: Problem, sampler: str, trials: int) -> Iterator[tuple[str, dict[str, float], Scores]]:
    """A search without racing: origin, point and document scores of each candidate."""
    space, config = problem.space, problem.config
    study = optuna.create_study(direction="maximize")
    proposer = Proposer(problem, study, sampler, Ledger(create_engine("sqlite://"), study.study_name), trials)
    experts = [expert.name for expert in config.models.experts]
    starts = list(warm_starts(space, experts, config.search.warm_start)[0].items())
    for number in range(trials):
        origin, start = (
            starts[number]
            if number < len(starts)
            else ("sampler", proposer.propose(number, study.get_trials(deepcopy=False)).point)
        )
        point = {name: float(value) for name, value in (start or {}).items()}
        problem.merger.apply(space.recipe(dict(point)))
        scores = score_split(problem.evaluator, problem.merger.model, "search")
        value = sum(scores.task(task).mean for task in problem.evaluator.tasks)
        said = {ORIGIN: origin} if number < len(starts) else {}
        done = optuna.trial.create_trial(
            params=point, distributions=distributions(space), value=value, user_attrs={**said, TOLD: number}
        )
        study.add_trial(done)
        yield origin, point, scores


def near(
    problem: Problem, known: list[Known], trials: int, seed: int
) -> Iterator[tuple[str, dict[str, float], Scores]]:
    """Children of the `PARENTS` best so far: crossed in half of the numbers, moved by 2 to 30 % of the bounds."""
    generator = np.random.default_rng(seed)
    dimensions = problem.space.dimensions(problem.space.methods[0])
    low, high = np.array([[each.low, each.high] for each in dimensions]).T
    for _ in range(trials):
        best = sorted(known, key=lambda each: -each.value)[:PARENTS]
        first, second = (np.array(best[place].weights) for place in generator.integers(len(best), size=2))
        step = (high - low) * np.exp(generator.uniform(np.log(0.02), np.log(0.3)))
        child = np.where(generator.random(len(low)) < 0.5, first, second) + step * generator.normal(size=len(low))
        inside = high - np.abs((child - low) % (2 * (high - low)) - (high - low))  # reflected at the bounds
        point = dict(zip([each.name for each in dimensions], inside.round(4).tolist(), strict=True))
        problem.merger.apply(problem.space.recipe(dict(point)))
        scores = score_split(problem.evaluator, problem.merger.model, "search")
        value = float(np.mean([scores.task(task).mean for task in problem.evaluator.tasks]))
        known.append(Known(list(point.values()), value))
        yield "sampler", point, scores


def known_of(path: Path | None, dimensions: list[str]) -> list[Known]:
    """The candidates of a recording in these dimensions."""
    if path is None:
        return []
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    alike = {name for name, of in header["series"].items() if of["dimensions"] == dimensions}
    return [Known(row["weights"], _mean(row["scores"])) for row in rows if row["series"] in alike]


def _mean(bits: dict[str, str]) -> float:
    return float(np.mean([each.count("1") / len(each) for each in bits.values()]))


def solved(problem: Problem, scores: Scores, task: TaskMetric) -> str:
    """One character for each document in the order of the task's data."""
    value = dict(zip(scores.keys(task), scores.values(task), strict=True))
    documents = sorted(
        (each for each in problem.evaluator.documents("search") if each.task == task.task), key=lambda each: each.index
    )
    found = {value[document.key] for document in documents} - {0.0, 1.0}
    if found:
        raise SystemExit(f"scores must be 0 or 1, but those of {task.task} have {sorted(found)[0]}")
    return "".join(str(int(value[document.key])) for document in documents)


def record(options: argparse.Namespace) -> None:
    """Write the header and every candidate."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    series: dict[str, Any] = {}
    parsed = [name.split(":") for name in options.series]
    problems = [problem_for(options.case, layers, options.seed, options.batch_size) for _, layers, _ in parsed]
    for (sampler, layers, trials), problem in zip(parsed, problems, strict=True):
        tasks = problem.evaluator.tasks
        dimensions = [each.name for each in problem.space.dimensions(problem.space.methods[0])]
        series[f"{sampler}:{layers}"] = {"trials": int(trials), "dimensions": dimensions}
        known = known_of(options.near, dimensions)
        known += [Known(row["weights"], _mean(row["scores"])) for row in rows if len(row["weights"]) == len(dimensions)]
        if sampler == "near":
            found = near(problem, known, int(trials), options.seed)
        else:
            found = candidates(problem, sampler, int(trials))
        for origin, point, scores in found:
            numbers = [round(point[dimension], 4) for dimension in dimensions]
            bits = {task.task: solved(problem, scores, task) for task in tasks}
            rows.append({"series": f"{sampler}:{layers}", "origin": origin, "weights": numbers, "scores": bits})
            print(f"{len(rows)} candidates, {time.monotonic() - began:.0f} s", end="\r", file=sys.stderr)
    header = {
        "case": options.case.name,
        "command": "python benchmarks/record.py " + " ".join(sys.argv[1:]),
        "seed": options.seed,
        "method": problem.space.methods[0],
        "series": series,
        "tasks": [{"task": task.task, "metric": task.label, "documents": len(bits[task.task])} for task in tasks],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line, separators=(",", ":")) for line in [header, *rows]]
    partial = options.out.with_suffix(".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, options.out)


def main() -> None:
    """Record what the command line asks for."""
    parser = argparse.ArgumentParser(description="Record document scores of candidates.")
    parser.add_argument("--case", type=Path, default=ROOT / "examples" / "quickstart", help="a folder with search.yaml")
    parser.add_argument("--series", nargs="+", default=list(SERIES), help="SAMPLER:LAYERS:TRIALS")
    parser.add_argument("--near", type=Path, help="a recording whose best candidates the series `near` starts from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.out = options.out or ROOT / "benchmarks" / "data" / f"{options.case.resolve().name}.jsonl"
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    record(options)


if __name__ == "__main__":
    main()
