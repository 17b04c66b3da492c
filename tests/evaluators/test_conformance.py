"""What every registered evaluator keeps to. A new one joins by being registered.

One that needs other settings than lm-eval's tasks gives them in `SETTINGS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError
from evomerge.evaluators import EVALUATORS, SPLITS, EvaluateConfig, Evaluator, Scores, make_evaluator
from evomerge.evaluators.evaluator import evaluator as register
from tests.evaluators.conftest import random_model

SETTINGS: dict[str, dict[str, Any]] = {}


@pytest.fixture(params=EVALUATORS.names())
def build(
    request: pytest.FixtureRequest, config: Callable[..., EvaluateConfig], tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Evaluator]:
    def made(**settings: Any) -> Evaluator:
        tasks = ["choice", {"task": "generate", "metric": "checksum", "weight": 2.0}]
        chosen = {"limit": 90, "evaluator": request.param, **SETTINGS.get(request.param, {}), **settings}
        return make_evaluator(config(*tasks, **chosen), tokenizer)

    return made


def test_tasks_state_direction_and_weight(build: Callable[..., Evaluator]) -> None:
    tasks = build().tasks
    assert tasks
    assert all(isinstance(task.higher_is_better, bool) and task.weight > 0 for task in tasks)
    assert len({(task.task, task.label) for task in tasks}) == len(tasks)


def test_splits_share_no_document(build: Callable[..., Evaluator]) -> None:
    evaluator = build()
    places = [(document.task, document.key) for split in SPLITS for document in evaluator.documents(split)]
    assert len(set(places)) == len(places)
    for split in SPLITS:
        assert {document.split for document in evaluator.documents(split)} == {split}
        assert {document.task for document in evaluator.documents(split)} == {task.task for task in evaluator.tasks}


def test_chunks_are_the_documents_in_order(build: Callable[..., Evaluator]) -> None:
    evaluator = build()
    for split in SPLITS:
        chunks = evaluator.chunks(split)
        assert tuple(document for chunk in chunks for document in chunk) == evaluator.documents(split)
        assert all(len({document.task for document in chunk}) == 1 for chunk in chunks)


def test_preparing_again_gives_the_same(build: Callable[..., Evaluator]) -> None:
    first, second = build(), build()
    assert first.fingerprint() == second.fingerprint()
    assert first.tasks == second.tasks
    assert all(first.chunks(split) == second.chunks(split) for split in SPLITS)
    assert build(limit=80).fingerprint() != first.fingerprint()


def test_documents_keep_their_split_when_the_limit_changes(build: Callable[..., Evaluator]) -> None:
    few, many = build(limit=50), build(limit=90)
    for split in SPLITS:
        assert set(few.documents(split)) <= set(many.documents(split))


def test_scores_answer_for_the_documents_asked(build: Callable[..., Evaluator], model: LlamaForCausalLM) -> None:
    evaluator = build()
    for chunk in evaluator.chunks("select"):
        scores = evaluator.score(model, chunk)
        labels = [task.label for task in evaluator.tasks if task.task == chunk[0].task]
        assert [(score.task, score.document, score.metric) for score in scores] == [
            (document.task, document.key, label) for document in chunk for label in labels
        ]
        assert all(isinstance(score.value, float) and not math.isinf(score.value) for score in scores)
    assert evaluator.score(model, []) == []


def test_scores_are_of_the_weights_that_the_model_has_now(
    build: Callable[..., Evaluator], model: LlamaForCausalLM
) -> None:
    evaluator = build()
    documents = evaluator.documents("search")
    before = evaluator.score(model, documents)
    assert evaluator.score(model, documents) == before
    other = random_model(1)
    with torch.no_grad():
        for old, new in zip(model.parameters(), other.parameters(), strict=True):
            old.copy_(new)
    after = evaluator.score(model, documents)
    assert after != before
    assert after == evaluator.score(other, documents)


def test_weights_are_left_alone(build: Callable[..., Evaluator], model: LlamaForCausalLM) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator = build()
    evaluator.score(model, evaluator.documents("search"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_chunks_scored_in_any_order_give_the_same(build: Callable[..., Evaluator], model: LlamaForCausalLM) -> None:
    evaluator = build(batch_size=4)
    chunks = evaluator.chunks("search")
    forth = Scores(tuple(score for chunk in chunks for score in evaluator.score(model, chunk)))
    back = Scores(tuple(score for chunk in reversed(chunks) for score in evaluator.score(model, chunk)))
    assert forth == back


def test_a_candidate_without_numbers_is_refused(build: Callable[..., Evaluator], model: LlamaForCausalLM) -> None:
    evaluator = build()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(CandidateError):
        evaluator.score(model, evaluator.documents("search"))


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'lm_eval' is registered twice"):

        @register("lm_eval")
        class Other:  # type: ignore[type-var]
            pass
