"""How well the stand-in for generation ranks candidates: by the reference answers' likelihood, and by the metric.

    python benchmarks/proxy.py CONFIG [--candidates 15] [--set evaluate.limit=160]

CONFIG is a search with tasks that generate. Candidates are the base, each expert, the uniform merge, and random points
of the box; all are scored on the documents of `search` by both. Prints a row a candidate and, last, one JSON object:
Spearman's rank correlation for each task and for the objective, and the seconds that either way took.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.engine.recipe import Recipe
from evomerge.evaluators import Scores
from evomerge.evaluators.objective import objective
from evomerge.search.config import load_config
from evomerge.search.problem import Problem, build_problem, reference_recipes
from evomerge.search.proxy import spearman


def recipes(problem: Problem, count: int, seed: int) -> list[Recipe]:
    """The references, then random points of the box."""
    generator = np.random.default_rng(seed)
    found = list(reference_recipes(problem.config).values())
    method = problem.space.methods[0]
    while len(found) < count:
        point = {each.name: generator.uniform(each.low, each.high) for each in problem.space.dimensions(method)}
        found.append(problem.space.recipe(dict(point)))
    return found[:count]


def measured(problem: Problem, recipe: Recipe, by_proxy: bool) -> tuple[list[float], float]:
    """Each task's score and the objective, and the seconds they took; the live model holds the recipe."""
    evaluator = problem.evaluator
    start = time.perf_counter()
    rows = [
        row
        for chunk in evaluator.chunks("search")
        for row in evaluator.score(problem.merger.model, chunk, recipe.digest, proxy=by_proxy)
    ]
    seconds = time.perf_counter() - start
    tasks = [evaluator.proxies.get(task.task, task) if by_proxy else task for task in evaluator.tasks]
    scores = Scores(tuple(rows))
    return [*(scores.number(task) for task in tasks), objective(scores, tasks)], seconds


def main() -> None:
    """Score all candidates by both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--candidates", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    config = load_config(options.config, [*options.settings, "evaluate.proxy=reference_loglikelihood"])
    problem = build_problem(config)
    names = [*(task.task for task in problem.evaluator.tasks), "objective"]
    columns: dict[bool, list[list[float]]] = {False: [], True: []}
    seconds = {False: 0.0, True: 0.0}
    print("candidate | " + " | ".join(f"{name}, stand-in" for name in names))
    for number, recipe in enumerate(recipes(problem, options.candidates, options.seed)):
        problem.merger.apply(recipe)
        for by_proxy in (False, True):
            values, took = measured(problem, recipe, by_proxy)
            columns[by_proxy].append(values)
            seconds[by_proxy] += took
        pairs = zip(columns[False][-1], columns[True][-1], strict=True)
        print(f"{number} | " + " | ".join(f"{metric:.3f}, {proxy:.3f}" for metric, proxy in pairs), flush=True)
    by_metric, by_stand_in = np.array(columns[False]), np.array(columns[True])
    told: dict[str, Any] = {
        "candidates": options.candidates,
        "documents": len(problem.evaluator.documents("search")),
        "spearman": {name: round(spearman(by_metric[:, i], by_stand_in[:, i]), 3) for i, name in enumerate(names)},
        "metric_s": round(seconds[False], 1),
        "stand_in_s": round(seconds[True], 1),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
