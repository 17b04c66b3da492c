"""The race on `select`: who leaves could not have won, and those who stay have all documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.errors import CandidateError
from evomerge.evaluators import Document, DocumentScore, Scores, TaskMetric
from evomerge.evaluators.splits import rungs
from evomerge.search import final_race
from evomerge.search.final_race import FinalRace, Runner
from tests.search.finals import NO_WORSE_THAN_B, SIZES, Final, Notes

TASKS = (TaskMetric("left", "acc", weight=2.0), TaskMetric("right", "acc"), TaskMetric("shown", "acc", weight=0.0))


class Answers:
    """Evaluator and scorer in one: a recipe is the place of a candidate's answers, T x N on each split."""

    tasks = TASKS

    def __init__(self, search: np.ndarray, select: np.ndarray) -> None:
        self._values = {"search": search, "select": select}
        self.broken: tuple[int, ...] = ()

    def documents(self, split: Any) -> tuple[Document, ...]:
        size = self._values[split].shape[2]
        return tuple(Document(t.task, f"{split}{place:04d}", place, split) for t in TASKS for place in range(size))

    def rungs(self, split: Any) -> Any:
        return rungs({t.task: [d for d in self.documents(split) if d.task == t.task] for t in TASKS}, 16, 4)

    def score(self, recipe: int, split: str, number: int) -> Scores:
        rows = zip(TASKS, self._values[split][recipe], strict=True)
        return Scores(
            tuple(
                DocumentScore(task.task, f"{split}{place:04d}", "acc", float(value))
                for task, row in rows
                for place, value in enumerate(row)
            )
        )

    def ahead(self, errands: Any) -> None:
        pass

    def climb(self, recipe: int, plan: Any, split: str, number: int) -> Iterator[Scores]:
        seen: list[Document] = []
        for rung in plan:
            if recipe in self.broken:
                raise CandidateError("logits are NaN")
            seen += [document for chunk in rung for document in chunk]
            yield self.score(recipe, split, number).of(seen)

    def run(self, candidates: Sequence[int], is_race: bool = True, notes: Notes | None = None) -> dict[int, Runner]:
        race = FinalRace(self, self, is_race, notes or Notes())  # type: ignore[arg-type]
        return race.run({each: each for each in candidates})  # type: ignore[misc]


def answers(generator: np.random.Generator, rates: Sequence[float], size: int) -> np.ndarray:
    hard = generator.random((3, size))
    own = generator.random((len(rates), 3, size))
    return np.array([(0.6 * hard + 0.4 * each < rate).astype(float) for each, rate in zip(own, rates, strict=True)])


def pooled(case: Answers, candidate: int) -> float:
    both = np.concatenate([case._values[split][candidate] for split in ("search", "select")], axis=1).mean(axis=1)
    return float((2 * both[0] + both[1]) / 3)


def test_those_that_are_clearly_worse_leave_early_and_the_rest_has_all_documents() -> None:
    generator = np.random.default_rng(0)
    rates = [0.7, 0.69, 0.3, 0.25]
    case = Answers(answers(generator, rates, 100), answers(generator, rates, 100))
    notes = Notes()
    runners = case.run(range(4), notes=notes)
    assert [runner.is_out for runner in runners.values()] == [False, False, True, True]
    assert all(runner.documents == 300 for runner in runners.values() if not runner.is_out)
    assert all(runner.documents <= 60 for runner in runners.values() if runner.is_out)
    scored = sum(runner.documents for runner in runners.values())
    assert notes.notes == [
        f"select: 2 of 4 finalists left the race early (trials 2, 3); {scored} of 1200 documents were scored"
    ]


def test_the_best_of_equals_leaves_no_more_often_than_stated() -> None:
    generator = np.random.default_rng(1)
    lost = 0
    for _ in range(60):
        case = Answers(answers(generator, [0.5] * 3, 24), answers(generator, [0.5] * 3, 40))
        runners = case.run(range(3))
        best = max(range(3), key=lambda place: pooled(case, place))
        lost += runners[best].is_out
    assert lost / 60 <= 2 * final_race.ERROR  # two others may lead against it


def test_a_lead_on_search_counts_as_known_and_not_as_a_sample() -> None:
    search = np.zeros((2, 3, 200))
    search[0, :, :60] = 1.0
    search[1, :, 60:110] = 1.0  # five points of a lead with a standard error of as much
    select = np.repeat(answers(np.random.default_rng(2), [0.5], 20), 2, axis=0)
    assert case_out(search, select) == [False, True]
    assert case_out(np.repeat(search[:1], 2, axis=0), select) == [False, False]


def case_out(search: np.ndarray, select: np.ndarray) -> list[bool]:
    return [runner.is_out for runner in Answers(search, select).run(range(len(search))).values()]


def test_a_task_without_weight_makes_nobody_leave() -> None:
    generator = np.random.default_rng(3)
    same = np.repeat(answers(generator, [0.5], 60), 2, axis=0)
    same[0, 2], same[1, 2] = 1.0, 0.0
    assert case_out(same, same) == [False, False]


def test_without_a_race_all_stay() -> None:
    generator = np.random.default_rng(4)
    case = Answers(answers(generator, [0.9, 0.1], 50), answers(generator, [0.9, 0.1], 50))
    assert case.run(range(2))[1].is_out
    assert not any(runner.is_out for runner in case.run(range(2), is_race=False).values())


def test_one_that_breaks_on_the_way_is_out_and_noted() -> None:
    generator = np.random.default_rng(5)
    case = Answers(answers(generator, [0.6, 0.6], 20), answers(generator, [0.6, 0.6], 20))
    case.broken, notes = (0,), Notes()
    assert list(case.run(range(2), notes=notes)) == [1]
    assert notes.notes == ["trial 0 is out of the final: logits are NaN"]


@pytest.mark.parametrize(
    "evaluate", [{"objective": "worst"}, {"objective": "pareto"}, {"constraints": [NO_WORSE_THAN_B]}]
)
def test_nobody_leaves_where_the_last_document_may_decide(evaluate: dict[str, Any], tmp_path: Path) -> None:
    final = Final(tmp_path, **{"racing": True, **evaluate})
    for weight in (0.5, 0.0, 1.2):
        final.add(weight, weight)
    finalists = final.choose()
    assert not any(each.is_out for each in finalists)
    documents = 2 * (SIZES["search"] + SIZES["select"])
    assert all(len(each.scores.documents) == documents for each in finalists)


def test_those_that_left_come_last_and_the_result_says_so(tmp_path: Path) -> None:
    final = Final(tmp_path, racing=True)
    good = [final.add(weight, weight) for weight in (0.63, 0.635)]
    bad = final.add(0.0, 0.0)
    result = final.compare()
    rows = {row["number"]: row for row in result["finalists"]}
    assert result["finalists"][-1]["number"] == bad
    assert rows[bad]["out"]
    assert rows[bad]["documents"] < 2 * SIZES["select"]
    for number in good:
        assert not rows[number]["out"]
        assert rows[number]["documents"] == 2 * SIZES["select"]
    again = len(final.run.evaluator.scored)
    assert final.compare() == result
    assert len(final.run.evaluator.scored) == again  # nothing is scored twice
