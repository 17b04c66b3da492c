"""Trials in whichever way they are scored: raced, on a subset, by a stand-in; and what is remembered of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.engine.recipe import Recipe
from evomerge.evaluators.guard import CollapsedError
from evomerge.evaluators.objective import objective
from evomerge.search import scoring
from evomerge.search.study import ESTIMATED, PROXY, PRUNED, REASON, SCORED, STDERR, SUBSET, full_trials, trial_recipe
from tests.search.toy import ToyRun, quality, toy_config

SIZES = {"search": 100, "select": 20, "report": 20}
TRIALS = 24


class CrashError(BaseException):
    """Stands for kill -9: nothing catches it, nothing is tidied up."""


def run(folder: Path, evaluate: dict[str, Any], trials: int = TRIALS, **options: Any) -> ToyRun:
    folder.mkdir(exist_ok=True)
    config = toy_config(evaluate=evaluate, search={"trials": trials, "sampler": "cmaes", "seed": 5})
    made = ToyRun(folder, config, **{"sizes": SIZES, **options})
    made.run(trials)
    return made


def full_score(toy: ToyRun, trial: Any) -> float:
    """The trial's objective on all documents of `search`, scored apart from the run."""
    scores = toy.evaluator.truth(trial_recipe(trial), "search")
    return objective(scores, toy.evaluator.tasks, toy.config.evaluate.objective)


def test_no_candidate_is_stopped_before_one_is_scored_in_full(tmp_path: Path) -> None:
    bound = {"constraints": [{"task": "left", "at_least": 0.99}], "racing": {"error": 0.4}}
    toy = run(tmp_path / "bound", bound, trials=12)
    first, *_ = full_trials(toy.study)
    assert first.number == 0


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_a_race_scores_fewer_documents_and_finds_as_good_a_candidate(kind: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", {"objective": kind, "racing": False})
    raced = run(tmp_path / "raced", {"objective": kind, "racing": True})
    assert len(raced.evaluator.scored) < 0.7 * len(whole.evaluator.scored)
    best = [max(full_score(toy, trial) for trial in full_trials(toy.study)) for toy in (whole, raced)]
    assert best[1] > best[0] - 0.05


def test_a_stopped_candidate_is_told_an_estimate_that_says_what_it_is(tmp_path: Path) -> None:
    toy = run(tmp_path / "raced", {"racing": True})
    stopped = [trial for trial in toy.study.get_trials() if trial.user_attrs.get(PRUNED)]
    assert len(stopped) > 5
    for trial in stopped:
        assert trial.state.name == "COMPLETE"
        assert trial.user_attrs[ESTIMATED]
        assert trial.user_attrs[STDERR] > 0
        assert trial.user_attrs[SCORED][0] < trial.user_attrs[SCORED][1] == 200
        assert "worse than the best by" in trial.user_attrs[REASON]
    misses = [trial.value - full_score(toy, trial) for trial in stopped]
    assert abs(np.mean(misses)) < 3 * np.std(misses) / math.sqrt(len(misses)) + 0.01
    for trial in full_trials(toy.study):
        assert trial.value == pytest.approx(full_score(toy, trial))
        assert trial.user_attrs[SCORED] == [200, 200]


MODES = {
    "race": (7, {"racing": True}),
    "worst": (31, {"racing": True, "objective": "worst"}),
    "subset": (226, {"racing": True, "subset": 30}),
    "proxy": (345, {"racing": True, "proxy": "reference_loglikelihood"}),
    "constraint": (58, {"racing": True, "constraints": [{"task": "left", "at_least": "a", "margin": 0.05}]}),
    "pareto": (90, {"racing": True, "objective": "pareto"}),
}


@pytest.mark.parametrize("mode", MODES)
def test_after_a_crash_everything_is_decided_as_it_would_have_been(mode: str, tmp_path: Path) -> None:
    chunk, evaluate = MODES[mode]
    sampler, trials = ("nsga2" if mode == "pareto" else "cmaes"), 18
    config = toy_config(evaluate=evaluate, search={"trials": trials, "sampler": sampler, "seed": 5})
    made = [tmp_path / "whole", tmp_path / "broken"]
    for folder in made:
        folder.mkdir()

    def toy(folder: Path) -> ToyRun:
        return ToyRun(folder, config, sizes=SIZES, proxied={"left": 1.0} if mode == "proxy" else {})

    def crash(done: int) -> None:
        if done == chunk:
            raise CrashError

    whole, first = toy(made[0]), toy(made[1])
    whole.run(trials)
    first.evaluator.before_chunk = crash
    with pytest.raises(CrashError):
        first.run(trials)
    second = toy(made[1])
    second.run(trials)
    assert second.history() == whole.history()
    scored = first.evaluator.scored + second.evaluator.scored
    assert len(set(scored)) == len(scored)
    assert sorted(scored) == sorted(whole.evaluator.scored)


def test_a_subset_stands_for_all_once_candidates_are_known(tmp_path: Path) -> None:
    toy = run(tmp_path / "subset", {"racing": False, "subset": 30}, trials=26)
    chosen = toy.study.user_attrs[SUBSET]
    assert len(chosen["documents"]) == 60
    assert 0 < chosen["error"] < 0.1
    trials = toy.study.get_trials()
    on_subset = [trial for trial in trials if trial.user_attrs.get(ESTIMATED)]
    assert on_subset
    assert all(trial.user_attrs[SCORED][0] == 60 and not trial.user_attrs[PRUNED] for trial in on_subset)
    leader = -math.inf
    for trial in trials:
        if trial.user_attrs.get(ESTIMATED):
            assert trial.value <= leader
        else:
            leader = max(leader, trial.value)
    misses = [trial.value - full_score(toy, trial) for trial in on_subset]
    assert math.sqrt(np.mean(np.square(misses))) < 0.06


def test_a_stand_in_leads_where_it_ranks_as_the_metric_does(tmp_path: Path) -> None:
    evaluate = {"racing": False, "proxy": "reference_loglikelihood"}
    good = run(tmp_path / "good", evaluate, trials=26, proxied={"left": 1.0, "right": 1.0})
    bad = run(tmp_path / "bad", evaluate, trials=26, proxied={"left": -1.0, "right": -1.0})
    assert all(each["leads"] for each in good.study.user_attrs[PROXY].values())
    assert not any(each["leads"] for each in bad.study.user_attrs[PROXY].values())
    by_metric = [sum(not key[1].startswith("proxy") for key in toy.evaluator.scored) for toy in (good, bad)]
    assert by_metric[0] < 0.8 * by_metric[1]
    assert not any(trial.user_attrs.get(ESTIMATED) for trial in bad.study.get_trials())
    predicted = [trial for trial in good.study.get_trials() if trial.user_attrs.get(ESTIMATED)]
    assert predicted
    misses = [trial.value - full_score(good, trial) for trial in predicted]
    assert math.sqrt(np.mean(np.square(misses))) < 0.1
    by_proxy = [key for key in bad.evaluator.scored if key[1].startswith("proxy")]
    assert len(by_proxy) == 10 * 200  # ten candidates by both, then the metric alone


def test_a_stand_in_of_one_task_leaves_the_other_to_the_metric(tmp_path: Path) -> None:
    evaluate = {"racing": False, "proxy": "reference_loglikelihood"}
    toy = run(tmp_path / "one", evaluate, trials=30, proxied={"left": 1.0, "right": -1.0})
    leads = {name.split()[0]: each["leads"] for name, each in toy.study.user_attrs[PROXY].items()}
    assert leads == {"left": True, "right": False}
    predicted = [trial for trial in toy.study.get_trials() if trial.user_attrs.get(ESTIMATED)]
    assert predicted
    assert all(trial.user_attrs[SCORED][0] == 100 for trial in predicted)


def test_a_collapsed_candidate_costs_nothing_and_is_told_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    referred: list[Recipe] = []

    class Guard:
        def __init__(self, texts: Any, tokenizer: Any, factor: float) -> None:
            assert (list(texts), factor) == (["a prompt"], 10.0)

        def refer(self, model: Recipe) -> None:
            referred.append(model)

        def check(self, model: Recipe) -> None:
            if quality(model, "left") < 0.5:
                raise CollapsedError("collapsed: no words")

    monkeypatch.setattr(scoring, "Guard", Guard)
    toy = run(tmp_path / "guard", {"racing": False, "guard": 10}, prompts=("a prompt",))
    assert len(referred) == 3  # the base and both experts
    given_up = [trial for trial in toy.study.get_trials() if "collapsed" in trial.user_attrs.get(REASON, "")]
    assert given_up
    scored = {key[0] for key in toy.evaluator.scored}
    for trial in given_up:
        assert trial.user_attrs["digest"] not in scored
        if trial.state.name == "COMPLETE":
            before = [other.value for other in full_trials(toy.study) if other.number < trial.number]
            assert trial.value <= min(before) + 1e-9
            assert trial.user_attrs[PRUNED]


def test_candidates_that_cannot_keep_a_constraint_are_stopped(tmp_path: Path) -> None:
    toy = run(tmp_path / "bound", {"racing": True, "constraints": [{"task": "left", "at_least": 0.9}]}, sizes=SIZES)
    broken = [t for t in toy.study.get_trials() if "constraint" in t.user_attrs.get(REASON, "")]
    assert broken
    assert all(max(trial.user_attrs["constraints"].values()) > 0 for trial in broken)
    feasible = [t for t in full_trials(toy.study) if max(t.user_attrs["constraints"].values()) <= 0]
    for trial in feasible:
        assert toy.evaluator.truth(trial_recipe(trial), "search").task(toy.evaluator.tasks[0]).mean >= 0.9
