"""Documents that a search has to score until it is good: the default against what others do.

    python benchmarks/search.py --case a --seeds 20                # the landscape; two processes
    python benchmarks/search.py --case b --seeds 5                 # the quickstart, with its models
    python benchmarks/search.py --case c --seeds 1 --folder CASE   # a folder with search.yaml
    python benchmarks/search.py --case a --strategies auto --ablation
    python benchmarks/search.py --part proposals                   # the time of a proposal in 256 dimensions

Strategies, all over one weight for each expert, layer, and attention or rest: `auto`, the defaults; `cmaes`, CMA-ES
from the uniform merge with every candidate scored on all documents (as mergekit-evolve does); `tpe` and `random`
likewise.

Documents of `search` are counted whenever a candidate is scored on one for the first time; one that a gradient ran
backward through counts as three. A generated document costs its tokens over those of a scored one: prompt and answer in
both, so with answers no longer than the references, as in these cases, it counts as one. The same holds for all
strategies. Scoring on other documents is not counted.

The target is 95 % of the best known gain over the uniform merge, on held-out documents. A search reaches it when the
candidate that it would pick at that time does: of `auto` the one it believes to be best, of the others the one with the
highest score. The others go on to the target or to --cap trials, `auto` to the end of its --trials; `final_held_out` is
that of the winner by `selection.choose`. A search that never gets there has null, and counts as infinite in a median.
Prints a row a case and strategy (medians over seeds) and, last, one JSON object that has every single run, too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from cases import Case, FolderCase, LandscapeCase  # noqa: E402

from evomerge.engine.recipe import Recipe  # noqa: E402
from evomerge.search.beliefs import beliefs  # noqa: E402
from evomerge.search.gradient import GRADIENT  # noqa: E402
from evomerge.search.interrupt import StopRequest  # noqa: E402
from evomerge.search.judge import Judge  # noqa: E402
from evomerge.search.ledger import Ledger  # noqa: E402
from evomerge.search.listener import Listener, TrialOutcome  # noqa: E402
from evomerge.search.references import resolve_bounds  # noqa: E402
from evomerge.search.scoring import Scorer  # noqa: E402
from evomerge.search.selection import choose  # noqa: E402
from evomerge.search.storage import open_storage, quiet_optuna, sqlite_url  # noqa: E402
from evomerge.search.study import best_of, complete_trials, create_study, full_trials, trial_recipe  # noqa: E402
from evomerge.search.trials import TrialLoop  # noqa: E402

SHARE = 0.95
BEST = {"b": 0.7243, "c": 0.65}
STRATEGIES = ("auto", "cmaes", "tpe", "random")
PLAIN = ("evaluate.racing=false", "search.warm_start=[uniform]")
ABLATIONS = {
    "auto": (),
    "auto, no racing": ("evaluate.racing=false",),
    "auto, no curriculum": ("search.sampler=gp",),
    "auto, no warm starts": ("search.warm_start=[uniform]",),
    "auto, no gradient": ("search.warm_start=[uniform, experts, sweep]",),
    "auto, no stand-in": ("evaluate.proxy=null",),
}


class ReachedError(Exception):
    """The target is reached, and nothing more is to be seen."""


@dataclass(frozen=True)
class Task:
    """One search: of which case, by which strategy, with which seed, and how long."""

    case: str
    folder: Path
    strategy: str
    seed: int
    trials: int
    cap: int
    best: float
    settings: tuple[str, ...]

    @property
    def is_auto(self) -> bool:
        """Whether it is the default or a part of it."""
        return self.strategy.startswith("auto")

    def build(self) -> Case:
        """The problem of the search."""
        gradient = ", gradient" if self.case != "a" else ""
        own = ABLATIONS[self.strategy] if self.is_auto else (*PLAIN, f"search.sampler={self.strategy}")
        start = (f"search.warm_start=[uniform, experts, sweep{gradient}]",)
        length = (f"search.trials={self.trials if self.is_auto else self.cap}",)
        settings = [*start, *own, *length, *self.settings]
        if self.case == "a":
            return LandscapeCase(self.seed, settings)
        return FolderCase(self.folder, self.best, self.seed, settings)


class Watch(Listener):
    """Looks after each trial whether the target is reached, and counts documents.

    Args:
        case: that is searched.
        is_auto: whether the incumbent is by beliefs.
    """

    def __init__(self, case: Case, is_auto: bool) -> None:
        self._case, self._is_auto = case, is_auto
        self._scored = 0
        self._counts = True
        self._truths: dict[str, float] = {}
        self.reached: int | None = None
        self.path: list[tuple[int, float]] = []

    def watch(self, study: Any, scorer: Scorer, target: float) -> None:
        """Begin."""
        self._study, self._scorer, self._target = study, scorer, target

    @property
    def counted(self) -> int:
        """Documents so far."""
        return self._scored + int(self._study.user_attrs.get(GRADIENT, {}).get("documents", 0))

    def documents(self, scored: int) -> None:
        """Count."""
        self._scored += scored if self._counts else 0

    def trial(self, outcome: TrialOutcome) -> None:
        """Look."""
        recipe = self._incumbent()
        if recipe is None:
            return
        truth = self.truth(recipe)
        if not self.path or self.path[-1][1] != truth:
            self.path.append((self.counted, truth))
        if self.reached is None and truth >= self._target:
            self.reached = self.counted
            if not self._is_auto:
                raise ReachedError

    def truth(self, recipe: Recipe) -> float:
        """Of a recipe; not counted."""
        if recipe.digest not in self._truths:
            self._counts = False
            self._truths[recipe.digest] = self._case.truth(recipe, self._scorer)
            self._counts = True
        return self._truths[recipe.digest]

    def _incumbent(self) -> Recipe | None:
        problem, study = self._case.problem, self._study
        trials = complete_trials(study) if self._is_auto else full_trials(study)
        if not trials:
            return None
        if not self._is_auto:
            return trial_recipe(best_of(trials, problem.evaluator.tasks))
        believed = beliefs(study, problem.space, problem.evaluator.tasks)
        return trial_recipe(max(trials, key=lambda trial: believed[trial.number].mean))


def search(task: Task) -> dict[str, Any]:
    """One search, to its target and its end."""
    import torch

    torch.set_num_threads(1)
    quiet_optuna()
    began = time.perf_counter()
    case = task.build()
    problem = case.problem
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(sqlite_url(Path(folder) / "study.db"))
        study = create_study(storage, problem.config, problem.evaluator.tasks)
        watch, stop = Watch(case, task.is_auto), StopRequest()
        ledger = Ledger(storage.engine, study.study_name)
        scorer = Scorer(problem, ledger, watch, stop)
        watch._counts = False
        target = case.target(scorer)
        watch._counts = True
        watch.watch(study, scorer, target.at(SHARE))
        judge = Judge(problem, study, ledger, scorer, resolve_bounds(problem, scorer, "search"), watch)
        with suppress(ReachedError):
            TrialLoop(problem, study, judge, watch, stop).run(problem.config.search.trials, None)
        counted = watch.counted
        winner = choose(problem, study, scorer, Listener())[0]
        final = watch.truth(winner.recipe)
        proposals = [trial.user_attrs["seconds"]["sampler"] for trial in complete_trials(study)]
        trials = len(complete_trials(study))
        storage.engine.dispose()
    return {
        "case": task.case,
        "strategy": task.strategy,
        "seed": task.seed,
        "documents_to_target": watch.reached,
        "final_held_out": round(final, 4),
        "seconds": round(time.perf_counter() - began, 1),
        "documents": counted,
        "trials": trials,
        "uniform": round(target.uniform, 4),
        "best_known": round(target.best, 4),
        "proposal_ms": round(1000 * statistics.median(proposals), 1),
        "path": [[documents, round(value, 4)] for documents, value in watch.path],
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds of a strategy."""
    needed = statistics.median(
        math.inf if run["documents_to_target"] is None else run["documents_to_target"] for run in runs
    )
    return {
        "case": runs[0]["case"],
        "strategy": runs[0]["strategy"],
        "documents_to_target": None if math.isinf(needed) else round(needed),
        "final_held_out": round(statistics.median(run["final_held_out"] for run in runs), 4),
        "seconds": round(statistics.median(run["seconds"] for run in runs), 1),
        "seeds": len(runs),
        "reached": sum(run["documents_to_target"] is not None for run in runs),
        "documents": round(statistics.median(run["documents"] for run in runs)),
        "proposal_ms": round(statistics.median(run["proposal_ms"] for run in runs), 1),
    }


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print dictionaries of the same keys as a table."""
    cells = [list(rows[0]), *[[str(value) for value in row.values()] for row in rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(flush=True)


def tasks_of(options: argparse.Namespace) -> list[Task]:
    """All searches that the command line asks for, seed by seed."""
    strategies = list(ABLATIONS) if options.ablation else options.strategies
    if options.case == "a" and options.ablation:
        strategies = [each for each in strategies if each not in ("auto, no gradient", "auto, no stand-in")]
    best = options.best if options.best is not None else BEST.get(options.case, math.nan)
    folder = options.folder or ROOT / "examples" / "quickstart"
    return [
        Task(options.case, folder, strategy, seed, options.trials, options.cap, best, tuple(options.set))
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for strategy in strategies
    ]


def searches(options: argparse.Namespace) -> None:
    """Run, print, and save after each run where --out says so."""
    runs: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for run in pool.map(search, tasks_of(options)):
            runs.append(run)
            told = {key: value for key, value in run.items() if key != "path"}
            print(json.dumps(told), file=sys.stderr, flush=True)
            if options.out:
                options.out.write_text(json.dumps(runs) + "\n", encoding="utf-8")
    names = dict.fromkeys(run["strategy"] for run in runs)
    rows = [summary([run for run in runs if run["strategy"] == name]) for name in names]
    table(rows)
    print(json.dumps({"rows": rows, "share": SHARE, "runs": runs}))


def main() -> None:
    """Run the part asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["searches", "proposals"], default="searches")
    parser.add_argument("--case", choices=["a", "b", "c"], default="a")
    parser.add_argument("--folder", type=Path, help="of case c, or of another one to search like b")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--ablation", action="store_true", help="`auto`, and without each of its parts")
    parser.add_argument("--trials", type=int, default=100, help="of auto")
    parser.add_argument("--cap", type=int, default=1000, help="trials of the other strategies at most")
    parser.add_argument("--best", type=float, help="the best known held-out objective of case b or c")
    parser.add_argument("--set", action="append", default=[], help="key.path=value over every strategy's configuration")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the runs here, after each of them")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.part == "proposals":
        from proposals import measure

        measure()
        return
    searches(options)


if __name__ == "__main__":
    main()
