"""How long a proposal takes in 256 dimensions, for every sampler; benchmarks/search.py --part proposals runs it.

A proposal is all that the search does for it: the sampler is built, reads the study in its SQLite file and chooses a
point, and the trial is created. The finished trials have random points, and for `auto`, which keeps its stage with
each, its own; their values are a smooth function of the point with noise. The median of a few proposals, each after a
further trial.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cases import RecipeMerger
from optuna.trial import FrozenTrial

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Recipe
from evomerge.evaluators import DocumentScore, TaskMetric
from evomerge.search.config import SearchConfig, parse_config
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem
from evomerge.search.proposals import Proposer
from evomerge.search.queue import TrialQueue
from evomerge.search.sampling import SAMPLERS
from evomerge.search.storage import open_storage, quiet_optuna, sqlite_url
from evomerge.search.study import DIGEST, NOISE, create_study
from evomerge.search.workers import Workers
from evomerge.spaces import Merge, Space

FINISHED = (100, 300)
REPEATS = 7
LAYERS, EXPERTS = 32, 4  # x 2 groups of modules = 256
DOCUMENTS = 30  # of each task, with scores in the ledger
FRONTS = ("nsga2", "nsga3")  # are measured with two objectives


class _Evaluator:
    """Says what is measured; nothing is scored."""

    tasks = (TaskMetric("left", "acc"), TaskMetric("right", "acc"))
    proxies: Mapping[str, TaskMetric] = {}


class _Merger(RecipeMerger):
    num_layers = LAYERS


def problem(sampler: str, objective: str) -> Problem:
    """256 weights: of four experts in 32 layers, attention and the rest."""
    config: SearchConfig = parse_config(
        {
            "name": "proposals",
            "models": {"base": "base", "experts": [f"expert{number}" for number in range(EXPERTS)]},
            "merge": {"method": "task_arithmetic"},
            "space": {"layers": "per_layer", "modules": ["attention", "mlp"], "weight": [0.0, 1.3]},
            "evaluate": {"tasks": ["left", "right"], "objective": objective, "guard": None},
            "search": {"sampler": sampler, "trials": 2 * max(FINISHED), "warm_start": []},
        },
        "proposals",
    )
    template = Recipe(base=config.models.base, experts=config.models.experts, method="task_arithmetic")
    space = Space(config.space, LAYERS, [Merge(template, METHODS.get(template.method).parameters)])
    return Problem(config, _Merger(), _Evaluator(), space)  # type: ignore[arg-type]


class Bench:
    """A study in 256 dimensions that grows by trials whose values are made up.

    Args:
        folder: for the database.
        sampler: whose proposals are measured.
    """

    def __init__(self, folder: Path, sampler: str) -> None:
        self._problem = problem(sampler, "pareto" if sampler in FRONTS else "mean")
        storage = open_storage(sqlite_url(folder / f"{sampler}.db"))
        self._study = create_study(storage, self._problem.config, self._problem.evaluator.tasks)
        self._ledger = Ledger(storage.engine, self._study.study_name)
        self._workers = Workers(storage.engine, self._study.study_name)
        self._workers.join()
        self._random, self._own = self._queue("random"), self._queue(sampler)
        self._filler = self._own if sampler == "auto" else self._random
        self._generator = np.random.default_rng(0)

    def _queue(self, sampler: str) -> TrialQueue:
        proposer = Proposer(self._problem, self._study, sampler, self._ledger, 2 * max(FINISHED))
        space, check = self._problem.space, lambda: None
        return TrialQueue(self._study, space, self._ledger, proposer, self._workers, Listener(), check)

    def fill(self, count: int) -> None:
        """Up to `count` finished trials."""
        while len(self._study.get_trials(deepcopy=False)) < count:
            self._finish(self._filler, self._take(self._filler))

    def milliseconds(self) -> float:
        """The median of a few proposals."""
        found = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            trial = self._take(self._own)
            found.append(1000 * (time.perf_counter() - began))
            self._finish(self._own, trial)
        return round(statistics.median(found), 1)

    def close(self) -> None:
        """Leave the study."""
        self._random.leave()
        self._own.leave()
        self._workers.leave()
        self._ledger.engine.dispose()

    def _take(self, queue: TrialQueue) -> FrozenTrial:
        trial = queue.take(2 * max(FINISHED), lambda finished: "")
        assert trial is not None
        return trial

    def _finish(self, queue: TrialQueue, trial: FrozenTrial) -> None:
        point = np.array(list(trial.params.values()))
        quality = np.array([np.exp(-np.mean((point - goal) ** 2)) for goal in (0.4, 0.9)])
        tasks = self._problem.evaluator.tasks
        solved = self._generator.random((len(tasks), DOCUMENTS)) < quality[:, None]
        rows = [
            DocumentScore(task.task, str(place), task.label, float(bit))
            for task, bits in zip(tasks, solved, strict=True)
            for place, bit in enumerate(bits)
        ]
        self._ledger.record(trial.user_attrs[DIGEST], trial.number, "search", rows)
        values = solved.mean(axis=1).tolist() if len(self._study.directions) > 1 else [float(solved.mean())]
        queue.finish(trial, values, {NOISE: 0.06}, {})


def measure() -> None:
    """Print milliseconds a sampler, and one JSON object last."""
    quiet_optuna()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for sampler in SAMPLERS.names():
            row: dict[str, Any] = {"sampler": sampler, "dimensions": 2 * LAYERS * EXPERTS}
            bench = Bench(Path(folder), sampler)
            for count in FINISHED:
                bench.fill(count)
                row[f"ms_after_{count}"] = bench.milliseconds()
            bench.close()
            rows.append(row)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    print(json.dumps({"proposals": rows}))
