"""Where the winner and the best source differ, document by document; a few such documents' texts stay in the study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import optuna

from evomerge.engine.recipe import Recipe
from evomerge.evaluators import Document, Evaluator, Scores, Split, TaskMetric
from evomerge.evaluators.types import titles
from evomerge.search.config import SearchConfig
from evomerge.search.ledger import Ledger
from evomerge.search.problem import Problem, reference_recipes
from evomerge.search.study import DIGEST, study_tasks

EXAMPLES = "evomerge:examples"

Outcome = Literal["won", "lost", "both", "neither", "equal"]
OUTCOMES: tuple[Outcome, ...] = ("won", "lost", "both", "neither", "equal")
EACH = 2  # examples of a task that the winner won, and that it lost
IN_ALL = 16
PROMPT, ANSWER = 1200, 400  # characters


def keep_examples(problem: Problem, study: optuna.Study, ledger: Ledger, result: Mapping[str, Any]) -> None:
    """Keep the texts of a few documents of the comparison in the study, as its attribute `EXAMPLES`.

    A report of them then needs neither the tasks nor the code that comes with them. Of every task the first documents
    that the winner has won from the best source and lost to it are kept, as far as the evaluator has texts: {rival,
    documents: [{title, outcome, document, prompt, cut, expected, winner, rival}]}, `cut` characters of the prompt's
    beginning being left out; `winner` and `rival` are the values that they got.

    Args:
        problem: that was searched.
        study: keeps them.
        ledger: with the document scores.
        result: of the comparison.
    """
    rival = best_source(problem.config, result)
    if rival is None:
        return
    found = list(_examples(problem.evaluator, *compared(problem.config, study, ledger, result, rival), result["split"]))
    study.set_user_attr(EXAMPLES, {"rival": rival, "documents": _in_turns(found)[:IN_ALL]})


def best_source(config: SearchConfig, result: Mapping[str, Any]) -> str | None:
    """The base or the expert with the highest objective of those that the winner was compared with."""
    sources = [name for name in reference_recipes(config) if name != "uniform" and name in result["baselines"]]
    return max(sources, key=lambda name: float(result["baselines"][name]["objective"]), default=None)


def compared(
    config: SearchConfig, study: optuna.Study, ledger: Ledger, result: Mapping[str, Any], rival: str
) -> tuple[Scores, Scores]:
    """The document scores of the winner and of a source on the split of the comparison."""
    recipe: Recipe = reference_recipes(config)[rival]
    trial = study.get_trials(deepcopy=False)[result["winner"]["number"]]
    won, lost = (ledger.scores(digest, result["split"]) for digest in (str(trial.user_attrs[DIGEST]), recipe.digest))
    return Scores(tuple(won)), Scores(tuple(lost))


def outcomes(winner: Scores, rival: Scores, task: TaskMetric) -> dict[str, Outcome]:
    """For each document of a task that both are scored on who did better on it, by the document's key.

    Of equal values "both" stands for 1, "neither" for 0 where higher is better (the other way round where lower is),
    and "equal" for any others.
    """
    theirs = dict(zip(rival.keys(task), rival.values(task), strict=True))
    found: dict[str, Outcome] = {}
    for document, value in zip(winner.keys(task), winner.values(task), strict=True):
        other = theirs.get(document, math.nan)
        if not (math.isnan(value) or math.isnan(other)):
            found[document] = _outcome(float(value), float(other), task)
    return found


def _outcome(winner: float, rival: float, task: TaskMetric) -> Outcome:
    if winner != rival:
        return "won" if task.sign * (winner - rival) > 0 else "lost"
    solved = 1.0 if task.higher_is_better else 0.0
    return "both" if winner == solved else "neither" if winner == 1.0 - solved else "equal"


def _examples(evaluator: Evaluator, winner: Scores, rival: Scores, split: Split) -> Iterator[dict[str, Any]]:
    documents: dict[str, list[Document]] = {}
    for document in evaluator.documents(split):
        documents.setdefault(document.task, []).append(document)
    text_of = getattr(evaluator, "text", lambda document: None)  # evaluators that are older than it have none
    for title, task in zip(titles(evaluator.tasks), evaluator.tasks, strict=True):
        told = outcomes(winner, rival, task)
        values = [dict(zip(each.keys(task), each.values(task), strict=True)) for each in (winner, rival)]
        for outcome in ("won", "lost"):
            those = [each for each in documents.get(task.task, ()) if told.get(each.key) == outcome]
            for document in those[:EACH]:
                text = text_of(document)
                if text is None:
                    continue
                yield {
                    "title": title,
                    "outcome": outcome,
                    "document": document.key,
                    "prompt": text.prompt[-PROMPT:],
                    "cut": max(0, len(text.prompt) - PROMPT),
                    "expected": _within(text.expected),
                    "winner": float(values[0][document.key]),
                    "rival": float(values[1][document.key]),
                }


def _within(answer: str) -> str:
    left = len(answer) - ANSWER
    return answer if left <= 0 else f"{answer[:ANSWER]} … ({left} more characters)"


def _in_turns(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One example of each task and outcome after the other, so that the first ones speak of all tasks."""
    of_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for example in found:
        of_kind.setdefault((example["title"], example["outcome"]), []).append(example)
    return [group[turn] for turn in range(EACH) for group in of_kind.values() if turn < len(group)]


def read_examples(kept: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The best source's name and the examples in a study's attributes; ("", []) where there are none."""
    told = kept.get(EXAMPLES, {})
    return str(told.get("rival", "")), list(told.get("documents", []))


def outcome_counts(study: optuna.Study, winner: Scores, rival: Scores) -> dict[str, dict[Outcome, int]]:
    """For each task of a study on how many documents it came out how."""
    tasks = study_tasks(study)
    counts: dict[str, dict[Outcome, int]] = {}
    for title, task in zip(titles(tasks), tasks, strict=True):
        told = list(outcomes(winner, rival, task).values())
        counts[title] = {outcome: told.count(outcome) for outcome in OUTCOMES}
    return counts
