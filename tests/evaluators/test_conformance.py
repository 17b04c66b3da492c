"""What every registered evaluator keeps to. A new one joins by being registered.

One that needs other settings than lm-eval's tasks gives them in `SETTINGS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError
from evomerge.evaluators import EVALUATORS, SPLITS, EvaluateConfig, Evaluator, Scores, make_evaluator
from evomerge.evaluators.evaluator import evaluator as register
from tests.evaluators.conftest import random_model

TASKS: list[dict[str, Any]] = [{"task": "choice"}, {"task": "generate", "metric": "checksum", "weight": 2.0}]
FUNCTION: dict[str, Any] = {"function": "tiny_scoring:likeliest", "documents": "{data}/test.jsonl"}
PROMPTS: dict[str, Any] = {"kl_from_base": "{data}/prompts.txt"}
TEXT: dict[str, Any] = {"perplexity": "{data}/text.txt"}

SETTINGS: dict[str, dict[str, Any]] = {
    "function": {"tasks": [{**FUNCTION, "metric": "top"}, {**FUNCTION, "metric": "words", "weight": 2.0}]},
    "kl_from_base": {"tasks": [PROMPTS, {**PROMPTS, "task": "again", "weight": 2.0}]},
    "several together": {
        "evaluator": "lm_eval",
        "tasks": [*TASKS, {**FUNCTION, "metric": "top"}, PROMPTS, {**TEXT, "metric": "byte_perplexity"}],
        "constraints": [
            {"function": "tiny_scoring:weight", "at_least": 0.0},
            {"task": "binary", "metric": "calibration_error", "at_most": 0.5},
        ],
    },
}


@pytest.fixture
def data(folder: Path) -> Path:
    """The documents of the folder's tasks, as prompts, and as a text of many passages."""
    home = folder / "base" / "data"
    questions = [json.loads(line)["question"] for line in (home / "test.jsonl").read_text().splitlines()]
    (home / "prompts.txt").write_text("\n".join(questions))
    (home / "text.txt").write_text("\n\n".join(f"{question} {'larch and pine ' * 30}" for question in questions[:90]))
    return home


@pytest.fixture(params=[*EVALUATORS.names(), "several together"])
def build(
    request: pytest.FixtureRequest,
    config: Callable[..., EvaluateConfig],
    tokenizer: PreTrainedTokenizerFast,
    data: Path,
) -> Callable[..., Evaluator]:
    """An evaluator of each name, and one put together of all kinds of tasks; what is needed of the base is taken."""

    def made(refer: bool = True, **settings: Any) -> Evaluator:
        chosen: dict[str, Any] = {
            "limit": 90,
            "evaluator": request.param,
            **SETTINGS.get(request.param, {}),
            **settings,
        }
        written = json.dumps(chosen.pop("tasks", TASKS)).replace("{data}", str(data))
        evaluator = make_evaluator(config(*json.loads(written), **chosen), tokenizer)
        if refer:
            evaluator.refer(random_model(2))
        return evaluator

    return made


def test_tasks_state_direction_and_weight(build: Callable[..., Evaluator]) -> None:
    tasks = build().tasks
    assert tasks[0].weight > 0
    assert all(isinstance(task.higher_is_better, bool) and task.weight >= 0 for task in tasks)
    assert sorted(tasks, key=lambda task: task.weight == 0) == list(tasks)
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


def test_rungs_are_the_chunks_and_hold_every_task_from_the_first(build: Callable[..., Evaluator]) -> None:
    for evaluator in (build(), build(racing=False)):
        for split in SPLITS:
            rungs = evaluator.rungs(split)
            assert tuple(chunk for rung in rungs for chunk in rung) == evaluator.chunks(split)
            assert {document.task for chunk in rungs[0] for document in chunk} == {t.task for t in evaluator.tasks}


def test_any_documents_can_be_planned(build: Callable[..., Evaluator]) -> None:
    evaluator = build()
    everything = evaluator.documents("search")
    assert evaluator.planned(everything) == evaluator.rungs("search")
    for some in (everything[1::3], everything[:1], everything[::-1], ()):
        rungs = evaluator.planned(some)
        planned = [document for rung in rungs for chunk in rung for document in chunk]
        assert len(planned) == len(some)
        for name in {document.task for document in some}:
            assert [d for d in planned if d.task == name] == [d for d in some if d.task == name]
        assert all(len({document.task for document in chunk}) == 1 for rung in rungs for chunk in rung)


def test_stand_ins_are_of_its_tasks_and_prompts_are_texts(build: Callable[..., Evaluator]) -> None:
    evaluator = build(proxy="reference_loglikelihood")
    assert set(evaluator.proxies) <= {task.task for task in evaluator.tasks}
    prompts = evaluator.prompts(3)
    assert all(isinstance(prompt, str) and prompt for prompt in prompts)
    assert len(prompts) <= 3 * len({task.task for task in evaluator.tasks})


def test_what_needs_a_base_says_so(build: Callable[..., Evaluator], model: LlamaForCausalLM) -> None:
    evaluator = build(refer=False)
    if not evaluator.needs_reference:
        evaluator.score(model, evaluator.documents("select"))
        return
    with pytest.raises(ValueError, match="refer must be called with the base before score"):
        evaluator.score(model, evaluator.documents("select"))


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


def test_a_name_for_the_weights_changes_no_score(build: Callable[..., Evaluator], model: LlamaForCausalLM) -> None:
    evaluator = build()
    documents = evaluator.documents("search")
    plain = evaluator.score(model, documents)
    assert evaluator.score(model, documents, "first") == plain
    assert evaluator.score(model, documents, "first") == plain
    assert evaluator.score(model, documents[:5], "first") == evaluator.score(model, documents[:5])
    other = random_model(1)
    with torch.no_grad():
        for old, new in zip(model.parameters(), other.parameters(), strict=True):
            old.copy_(new)
    after = evaluator.score(model, documents, "second")
    assert after != plain
    assert after == evaluator.score(model, documents)


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
