"""kill -9 at random moments: nothing recorded is lost or doubled, and the answer is that of an undisturbed search."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from evomerge.engine.recipe import Recipe
from evomerge.evaluators import SPLITS
from evomerge.runs.events import read_events
from evomerge.runs.run import Run, open_run
from evomerge.search.interrupt import StopRequest
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import reference_recipes
from evomerge.search.scoring import Scorer
from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.study import REASON, trial_recipe
from tests.faults.lives import Death, Life, Record, Warm, join, lead, record_of

TRIALS = 13


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


@pytest.fixture(scope="module")
def undisturbed(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return warm.search(tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture
def report(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None], tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """Figures of a test, which are written down and shown at the end of all tests."""
    found: dict[str, Any] = {"test": request.node.name}
    begun = time.monotonic()
    yield found
    found["seconds"] = round(time.monotonic() - begun, 1)
    text = json.dumps(found, sort_keys=True)
    (tmp_path / "report.json").write_text(text + "\n")
    record_property("figures", text)


MANY = [pytest.param(50, seed, marks=pytest.mark.exhaustive) for seed in range(1, 5)]


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), *MANY[:2]])
def test_one_worker(
    kills: int, seed: int, warm: Warm, undisturbed: Run, report: dict[str, Any], tmp_path: Path
) -> None:
    generator = np.random.default_rng(seed)
    deaths, runs = Counter[str](), 0
    expected = record_of(undisturbed.folder)
    while sum(deaths.values()) < kills:
        folder = tmp_path / f"run{runs}"
        before, code = Record(), None
        while code != 0:
            is_last = sum(deaths.values()) >= kills
            death = None if is_last else Death.drawn(generator, 0.5 * warm.seconds)
            life = Life(folder, lead, death)
            code = life.end()
            assert code in (0, -9), life.said
            if code:
                deaths[f"{life.phase} by {death.by if death else None}"] += 1
            before = grown(folder, before)
        assert sorted(before.trials) == sorted(expected.trials)
        assert before.rows == expected.rows
        check_ended(open_run(folder), undisturbed)
        runs += 1
    report |= {"kills": sum(deaths.values()), "by phase": deaths, "runs": runs, "lost": 0, "doubled": 0, "differing": 0}


@pytest.mark.parametrize(("kills", "seed"), MANY[2:])
def test_three_workers(
    kills: int, seed: int, warm: Warm, undisturbed: Run, report: dict[str, Any], tmp_path: Path
) -> None:
    generator = np.random.default_rng(seed)
    deaths, runs = Counter[str](), 0
    rows, recipes = set[tuple[Any, ...]](), reference_recipes(warm.config)
    while sum(deaths.values()) < kills:
        folder = tmp_path / f"run{runs}"
        before = Record()
        lives = [Life(folder, work) for work in (lead, join, join)]
        while sum(deaths.values()) < kills:
            time.sleep(float(generator.uniform(0, 0.3 * warm.seconds)))
            if not any(life.is_alive for life in lives):
                break
            victims = range(3) if generator.random() < 0.2 else [int(generator.integers(3))]
            for place in victims:
                lives[place].kill()
                if lives[place].end() == -9:
                    deaths[f"{lives[place].phase} of {'the leader' if place == 0 else 'a worker'}"] += 1
            before = grown(folder, before)
            lives = [
                Life(folder, lead if place == 0 else join) if life.end(0) == -9 else life
                for place, life in enumerate(lives)
            ]
        assert [life.end() for life in lives] == [0, 0, 0], lives[0].said
        before = grown(folder, before)
        check_finished(open_run(folder))
        rows |= before.rows
        recipes |= {f"{runs} {trial.number}": trial_recipe(trial) for trial in open_run(folder).study.get_trials()}
        runs += 1
    assert scored_again(warm, recipes.values(), rows, tmp_path) == {row[:4]: row[6] for row in rows}
    report |= {"kills": sum(deaths.values()), "by phase": deaths, "runs": runs, "lost": 0, "doubled": 0}
    report |= {"rows scored again": len(rows), "differing": 0}


@pytest.mark.exhaustive
def test_an_export_is_whole_or_absent(warm: Warm, undisturbed: Run, report: dict[str, Any], tmp_path: Path) -> None:
    generator, kills = np.random.default_rng(0), 20
    deaths = Counter[str]()
    whole = digest_of(undisturbed.export(tmp_path / "whole"))
    begun = time.monotonic()
    assert Life(tmp_path / "first", partial(export, undisturbed.folder)).end() == 0
    seconds = time.monotonic() - begun
    while sum(deaths.values()) < kills:
        folder = tmp_path / f"export{len(list(tmp_path.iterdir()))}"
        life = Life(folder, partial(export, undisturbed.folder), Death.drawn(generator, seconds, "commit"))
        killed = life.end() == -9
        is_there = (folder / "model").exists()
        assert is_there or killed
        if killed:
            deaths["whole" if is_there else "absent"] += 1
        if not is_there:
            assert Life(folder, partial(export, undisturbed.folder)).end() == 0
        assert digest_of(folder / "model") == whole
    report |= {"kills": sum(deaths.values()), "left": deaths, "torn": 0}


def export(run: Path, warm: Warm, folder: Path, listener: Listener) -> None:
    open_run(run).export(folder / "model")


def digest_of(folder: Path) -> dict[str, str]:
    """Of each file of a checkpoint, but for what says when and under which name it was written."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name not in ("README.md", "evomerge.json")
    }


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_search_in_good_order(
    name: signal.Signals, warm: Warm, undisturbed: Run, tmp_path: Path
) -> None:
    generator, in_order = np.random.default_rng(int(name)), 0
    for number in range(3):
        folder = tmp_path / str(number)
        life = Life(folder, lead)
        time.sleep(float(generator.uniform(0.1, warm.seconds)))
        life.send(name)
        code = life.end()
        if "InterruptedRunError: interrupted; everything scored so far is kept" in life.said:
            in_order += 1
            assert read_events(folder / "events.jsonl")[-1]["event"] == "stop"
        if code != 0:  # at once, before there is a search that could be stopped in good order
            assert Life(folder, lead).end() == 0
        assert record_of(folder) == record_of(undisturbed.folder)
        check_ended(open_run(folder), undisturbed)
    assert in_order


def without_memory(merge: bool, error: type[Exception], warm: Warm, folder: Path, listener: Listener) -> None:
    """A search in which two candidates cannot be merged, or batches of more than 16 rows scored, for want of memory."""
    merger, calls = warm.problem.merger, itertools.count()
    apply, forward = merger.apply, merger.model.forward

    def starved_apply(recipe: Recipe) -> None:
        if next(calls) in (7, 10):
            raise error("out of memory")
        apply(recipe)

    def starved_forward(input_ids: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if len(input_ids) > 16:
            raise error("out of memory")
        return forward(input_ids, *rest, **named)

    if merge:
        merger.apply = starved_apply  # type: ignore[method-assign]
    else:
        merger.model.forward = starved_forward
    lead(warm, folder, listener)


@pytest.mark.exhaustive
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("merge", [True, False])
def test_a_search_goes_on_when_memory_runs_out(
    merge: bool, error: type[Exception], warm: Warm, undisturbed: Run, tmp_path: Path
) -> None:
    life = Life(tmp_path / "run", partial(without_memory, merge, error))
    assert life.end() == 0, life.said
    run = open_run(tmp_path / "run")
    assert run.result is not None
    states = Counter(trial.state.name for trial in run.study.get_trials())
    assert states.total() == TRIALS
    assert bool(states["FAIL"]) == merge
    for trial in run.study.get_trials(states=[TrialState.FAIL]):
        assert "out of memory" in trial.user_attrs[REASON]


def grown(folder: Path, before: Record) -> Record:
    """What is recorded now, which holds all that was before."""
    now = record_of(folder)
    assert before.rows <= now.rows
    assert before.trials <= now.trials
    return now


def check_ended(run: Run, undisturbed: Run) -> None:
    """The run's answer and files are those of an undisturbed one."""
    check_finished(run)
    assert run.result == undisturbed.result
    name = Path("best", "recipe.yaml")
    assert (run.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def check_finished(run: Run) -> None:
    assert run.result is not None
    trials = run.study.get_trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.state.name == "COMPLETE" for trial in trials)
    assert trial_recipe(trials[run.result["winner"]["number"]]) == run.recipe()
    assert read_events(run.folder / "events.jsonl")[-1]["event"] == "end"


def scored_again(
    warm: Warm, recipes: Iterable[Recipe], rows: Iterable[tuple[Any, ...]], folder: Path
) -> dict[tuple[str, ...], float]:
    """The values of the rows, from merging and scoring their recipes once more."""
    wanted = {(recipe, split) for recipe, _, _, _, split, *_ in rows}
    ledger = Ledger(open_storage(sqlite_url(folder / "again.db")).engine, "again")
    scorer = Scorer(warm.problem, ledger, Listener(), StopRequest())
    found = {}
    for recipe in {recipe.digest: recipe for recipe in recipes}.values():
        for split in SPLITS:
            if (recipe.digest, split) in wanted:
                for score in scorer.score(recipe, split, None).documents:
                    found[recipe.digest, score.task, score.document, score.metric] = score.value
    return {row[:4]: found[row[:4]] for row in rows}
