"""The final: who is scored again, who wins, and what the comparison says of constraints and of the front."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.engine.recipe import Recipe
from evomerge.errors import InputError
from evomerge.search import selection
from evomerge.search.beliefs import Belief
from evomerge.search.comparison import baselines
from evomerge.search.references import resolve_bounds
from evomerge.search.selection import pooled_front
from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.study import create_study
from tests.search.finals import NO_WORSE_THAN_B, SIZES, Final
from tests.search.toy import ToyRun, toy_config


def test_the_best_are_scored_again_and_the_pooled_documents_decide(tmp_path: Path) -> None:
    final = Final(tmp_path)
    numbers = [final.add(weight, weight) for weight in (0.0, 0.5, 0.55, 0.6, 1.1)]
    finalists = final.choose()
    assert {each.number for each in finalists} == set(numbers[1:4])
    pooled = [each.pooled for each in finalists]
    assert pooled == sorted(pooled, reverse=True)
    for each in finalists:
        assert each.is_feasible
        assert each.pooled == pytest.approx((2 * each.search + each.select) / 3)


def test_finalists_are_in_turns_those_believed_in_and_those_that_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = Final(tmp_path)
    numbers = [final.add(weight, weight) for weight in (0.6, 0.55, 0.5, 0.4, 0.3)]
    lucky, second, *others = numbers  # by their scores
    believed = {number: Belief(0.1 * place, 0.1) for place, number in enumerate(numbers)}
    monkeypatch.setattr(selection, "beliefs", lambda study, space, tasks: believed)
    assert {each.number for each in final.choose()} == {others[-1], lucky, others[-2]}  # of three places two by belief
    assert second not in {each.number for each in final.choose()}
    monkeypatch.setattr(selection, "beliefs", lambda study, space, tasks: {})
    assert final.choose()[0].number == lucky


def test_one_recipe_enters_once(tmp_path: Path) -> None:
    final = Final(tmp_path)
    for weight in (0.5, 0.5, 0.5, 0.2):
        final.add(weight, weight)
    assert [each.number for each in final.choose()] == [0, 3]


def test_who_breaks_a_constraint_is_left_out_while_enough_keep_it(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B])
    breaking = [final.add(0.6, weight) for weight in (0.4, 0.45, 0.5)]
    keeping = [final.add(0.3, weight) for weight in (0.75, 0.8, 0.85)]
    finalists = final.choose()
    assert {each.number for each in finalists} == set(keeping)
    assert all(each.is_feasible for each in finalists)
    (tmp_path / "free").mkdir()
    free = Final(tmp_path / "free")
    for weight in (0.4, 0.45, 0.5):
        free.add(0.6, weight)
    for weight in (0.75, 0.8, 0.85):
        free.add(0.3, weight)
    assert {each.number for each in free.choose()} & set(breaking)


def test_too_few_that_keep_it_are_joined_by_the_least_beyond_it_and_still_win(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B])
    far, near, kept = final.add(0.7, 0.1), final.add(0.6, 0.5), final.add(0.0, 0.9)
    finalists = final.choose()
    assert [each.number for each in finalists] == [kept, near, far]
    assert finalists[0].pooled < finalists[1].pooled
    assert final.notes.notes == []
    assert final.compare()["feasible"] is True


def test_if_none_keeps_them_the_least_beyond_wins_and_a_line_says_so(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[{**NO_WORSE_THAN_B, "margin": 0.01}])
    final.add(0.8, 0.1)
    near = final.add(0.6, 0.4)
    result = final.compare()
    assert result["winner"]["number"] == near
    assert result["feasible"] is False
    assert result["finalists"][0]["feasible"] is False
    (note,) = final.notes.notes
    winner = final.choose()[0]
    (missed,) = winner.violations.values()
    assert missed > 0
    value = winner.scores.task(final.run.evaluator.tasks[1]).mean
    assert f"trial {near}" in note
    assert f"right acc >= b - 0.01 (it has {value:.4f} and misses {value + missed:.4f} by {missed:.4f})" in note


def test_an_estimate_enters_the_final_only_where_it_is_better_by_its_error(tmp_path: Path) -> None:
    final = Final(tmp_path)
    worthless = final.add(0.58, 0.58, estimate=[0.99], stderr=float("nan"))
    full = [final.add(weight, weight) for weight in (0.5, 0.45, 0.4)]
    sure = final.add(0.56, 0.56, estimate=[0.99], stderr=0.01)
    vague = final.add(0.57, 0.57, estimate=[0.99], stderr=0.5)
    finalists = final.choose()
    assert {each.number for each in finalists} == {full[0], full[1], sure}
    assert vague not in {each.number for each in finalists}
    assert worthless not in {each.number for each in finalists}
    (entered,) = [each for each in finalists if each.number == sure]
    assert entered.search < 0.99  # its full score, not the estimate
    assert len(entered.scores.documents) == 2 * (SIZES["search"] + SIZES["select"])


def test_a_candidate_that_cannot_be_scored_is_out(tmp_path: Path) -> None:
    final = Final(tmp_path)
    numbers = [final.add(weight, weight) for weight in (0.5, 0.4)]
    broken = final.recipe(0.5, 0.5).digest
    final.run.evaluator.broken = lambda recipe: recipe.digest == broken
    assert [each.number for each in final.choose()] == [numbers[1]]
    assert final.notes.notes == [f"trial {numbers[0]} is out of the final: logits are NaN"]


def test_no_trial_makes_no_final(tmp_path: Path) -> None:
    assert Final(tmp_path).choose() == []


def test_a_reference_that_cannot_be_scored_is_the_user_s_to_mend(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B])
    final.run.evaluator.broken = lambda recipe: True
    with pytest.raises(InputError, match="must refer to a model that can be scored, but 'b': logits are NaN"):
        resolve_bounds(final.run.problem, final.run.scorer, "search")


def test_the_comparison_says_which_bounds_are_kept_on_report(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B, {"task": "left", "at_least": 0.2, "margin": 0.1}])
    final.add(0.3, 0.8)
    result = final.compare()
    right = final.run.evaluator.tasks[1]
    told = result["constraints"]
    assert list(told) == ["right acc >= b", "left acc >= 0.2 - 0.1"]
    expert = final.run.scorer.score(resolve_recipe(final, "b"), "report", None).task(right).mean
    assert told["right acc >= b"]["bound"] == expert
    assert told["right acc >= b"]["reference"] == "b"
    assert told["right acc >= b"]["value"] == result["winner"]["tasks"]["right"]["report"]
    assert told["left acc >= 0.2 - 0.1"]["bound"] == pytest.approx(0.1)
    for verdict in told.values():
        assert verdict["kept"] == (verdict["violation"] <= 0)
        assert verdict["violation"] == pytest.approx(verdict["bound"] - verdict["value"])
    assert result["baselines"]["b"]["feasible"]
    assert not result["baselines"]["a"]["feasible"]
    assert "front" not in result


def resolve_recipe(final: Final, name: str) -> Recipe:
    return baselines(final.run.problem, final.run.study)[name]


def test_without_constraints_everything_keeps_them(tmp_path: Path) -> None:
    final = Final(tmp_path)
    final.add(0.5, 0.5)
    result = final.compare()
    assert result["constraints"] == {}
    assert result["feasible"] is True
    assert all(row["feasible"] for row in result["baselines"].values())


def test_the_best_sweep_is_one_that_was_scored_in_full_and_keeps_the_constraints(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[{"task": "right", "at_most": 0.8}])
    estimated = final.add(0.55, 0.55, estimate=[0.99], origin="sweep 0.55")
    assert resolve_recipe(final, "best sweep") == final.recipe(0.55, 0.55)
    final.add(0.6, 0.6, origin="sweep 0.6, uniform")
    keeps = final.add(0.2, 0.2, origin="sweep 0.2")
    assert {estimated, keeps} == {0, 2}
    assert resolve_recipe(final, "best sweep") == final.recipe(0.2, 0.2)


class TestPareto:
    LINE = ((0.3, 0.8), (0.42, 0.68), (0.55, 0.55), (0.68, 0.42), (0.8, 0.3))

    def test_the_finalists_spread_over_the_front_and_hold_the_pick(self, tmp_path: Path) -> None:
        final = Final(tmp_path, objective="pareto", tasks=["left", "right"])
        numbers = [final.add(*point) for point in self.LINE]
        dominated = [final.add(0.1, 0.1), final.add(1.1, 1.1)]
        assert len(final.run.study.directions) == 2
        finalists = final.choose()
        chosen = {each.number for each in finalists}
        assert len(chosen) == 3
        assert not chosen & set(dominated)
        assert {numbers[0], numbers[-1]} <= chosen
        best = max(final.run.study.get_trials()[:5], key=lambda trial: (sum(trial.values), -trial.number))
        assert best.number in chosen
        assert finalists[0].pooled == max(each.pooled for each in finalists)

    def test_the_result_holds_the_front_on_the_pooled_documents(self, tmp_path: Path) -> None:
        final = Final(tmp_path, objective="pareto", tasks=["left", "right"])
        for point in self.LINE[::2]:
            final.add(*point)
        finalists = final.choose()
        result = final.compare()
        front = pooled_front(finalists, final.run.evaluator.tasks)
        assert [row["number"] for row in result["front"]] == [each.number for each in front]
        assert result["winner"]["number"] == result["front"][0]["number"]
        for row, each in zip(result["front"], front, strict=True):
            assert row["tasks"] == {task.task: each.scores.task(task).mean for task in final.run.evaluator.tasks}
            assert not any(
                all(other["tasks"][task] >= value for task, value in row["tasks"].items())
                and other["tasks"] != row["tasks"]
                for other in result["front"]
            )
        assert result["winner"]["objective"] == pytest.approx(
            sum(row["report"] for row in result["winner"]["tasks"].values()) / 2
        )

    def test_the_front_is_of_those_that_keep_the_constraints(self, tmp_path: Path) -> None:
        final = Final(tmp_path, objective="pareto", tasks=["left", "right"], constraints=[NO_WORSE_THAN_B])
        numbers = [final.add(*point) for point in self.LINE]
        result = final.compare()
        assert result["feasible"] is True
        on_front = {row["number"] for row in result["front"]}
        assert numbers[-1] not in on_front
        assert numbers[-1] not in {each["number"] for each in result["finalists"]}

    def test_one_task_has_no_front(self, tmp_path: Path) -> None:
        final = toy_config(evaluate={"objective": "pareto", "tasks": ["left", "right"]})
        storage = open_storage(sqlite_url(tmp_path / "study.db"))
        with pytest.raises(InputError, match="mean or worst for one task, but got 'pareto' with 1"):
            create_study(storage, final, ToyRun(tmp_path).evaluator.tasks[:1])
