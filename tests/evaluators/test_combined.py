"""Several kinds of tasks under one evaluator."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.evaluators import SPLITS, Document, EvaluateConfig, Evaluator, LmEval, make_evaluator
from evomerge.evaluators.combined import Combined, _merged
from evomerge.evaluators.divergence import Divergence
from evomerge.evaluators.functions import Functions
from evomerge.evaluators.splits import rungs

Config = Callable[..., EvaluateConfig]


@pytest.fixture
def data(folder: Path) -> Path:
    return folder / "base" / "data"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "near.txt"
    path.write_text("\n".join(f"larch {n} and pine" for n in range(40)))
    return path


@pytest.fixture
def evaluator(data: Path, prompts: Path, config: Config, tokenizer: PreTrainedTokenizerFast) -> Evaluator:
    return make_evaluator(
        config(
            {"function": "tiny_scoring:likeliest", "documents": data / "test.jsonl", "metric": "top"},
            "tagged",
            {"kl_from_base": prompts, "weight": 0.5},
            {"task": "binary", "metric": "acc"},
            constraints=[
                {"function": "tiny_scoring:weight", "at_most": 1e9},
                {"kl_from_base": prompts, "at_most": 0.1},
                {"task": "binary", "metric": "mcc", "at_least": "base"},
            ],
            limit=90,
        ),
        tokenizer,
    )


def test_tasks_are_in_the_configurations_order_and_constraints_last(evaluator: Evaluator) -> None:
    assert isinstance(evaluator, Combined)
    assert [(task.task, task.label, task.weight) for task in evaluator.tasks] == [
        ("likeliest", "top", 1.0),
        ("choice", "acc", 0.5),
        ("generate", "length", 0.5),
        ("near", "kl", 0.5),
        ("binary", "acc", 1.0),
        ("weight", "score", 0.0),
        ("binary", "mcc", 0.0),
    ]
    assert evaluator.needs_reference
    assert evaluator.proxies == {}


def test_scores_are_those_of_the_parts(
    evaluator: Evaluator, data: Path, prompts: Path, config: Config, model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> None:  # fmt: skip
    alone: list[Evaluator] = [
        make_evaluator(
            config(
                {"function": "tiny_scoring:likeliest", "documents": data / "test.jsonl", "metric": "top"},
                {"function": "tiny_scoring:weight"},
                limit=90,
            ),
            tokenizer,
        ),
        make_evaluator(
            config("tagged", {"task": "binary", "metric": "acc"}, {"task": "binary", "metric": "mcc"}, limit=90),
            tokenizer,
        ),
        make_evaluator(config({"kl_from_base": prompts}, limit=90), tokenizer),
    ]
    assert [type(part) for part in alone] == [Functions, LmEval, Divergence]
    for each in (evaluator, alone[2]):
        each.refer(model)
    for split in SPLITS:
        parts = {s for part in alone for chunk in part.chunks(split) for s in part.score(model, chunk)}
        chunked = [score for chunk in evaluator.chunks(split) for score in evaluator.score(model, chunk)]
        assert set(chunked) == parts
        assert len(chunked) == len(parts)
    mixed = list(evaluator.documents("search"))
    random.Random(0).shuffle(mixed)
    scores = evaluator.score(model, mixed, "weights")
    places = [(score.task, score.document) for score in scores]
    assert list(dict.fromkeys(places)) == [(document.task, document.key) for document in mixed]
    with pytest.raises(ValueError, match="documents must come from this evaluator"):
        evaluator.score(model, [Document("other", "a", 0, "search")])


def test_every_task_is_in_the_first_rung_and_all_come_forward_together(evaluator: Evaluator) -> None:
    plan = evaluator.rungs("search")
    assert {document.task for chunk in plan[0] for document in chunk} == {task.task for task in evaluator.tasks}
    assert tuple(chunk for rung in plan for chunk in rung) == evaluator.chunks("search")
    some = [document for document in evaluator.documents("report") if document.task in {"near", "choice"}][::2]
    assert sorted(d.key for rung in evaluator.planned(some) for chunk in rung for d in chunk) == sorted(
        d.key for d in some
    )


@given(st.lists(st.integers(0, 70), min_size=1, max_size=4), st.integers(1, 20))
def test_merged_rungs_keep_each_parts_order_and_pace(sizes: list[int], size: int) -> None:
    parts = []
    for place, count in enumerate(sizes):
        documents = [Document(f"t{place}", f"{number}", number, "search") for number in range(count)]
        parts.append(rungs({f"t{place}": documents}, size, min(size, 3)) if count else ())
    merged = _merged(parts)
    assert len(merged) == max(map(len, parts))
    for place, part in enumerate(parts):
        own = [chunk for rung in merged for chunk in rung if chunk[0].task == f"t{place}"]
        assert own == [chunk for rung in part for chunk in rung]
    lead = max(parts, key=len)
    task = lead[0][0][0].task if lead else ""
    seen = dict.fromkeys(range(len(sizes)), 0)
    for rung in merged:
        for chunk in rung:
            seen[int(chunk[0].task[1:])] += len(chunk)
        share = seen[int(task[1:])] / sizes[int(task[1:])]
        assert all(seen[place] >= share * count - 1e-9 for place, count in enumerate(sizes))


def test_fingerprints_and_prompts_are_of_all_parts(
    evaluator: Evaluator, config: Config, prompts: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    def build(weight: float, limit: int) -> Evaluator:
        tasks: list[Any] = ["choice", {"kl_from_base": prompts, "weight": weight}]
        return make_evaluator(config(*tasks, limit=limit), tokenizer)

    found = {build(weight, limit).fingerprint() for weight in (1.0, 2.0) for limit in (90, 80)}
    assert len(found) == 4
    assert sum(prompt.endswith("and pine") for prompt in build(1.0, 90).prompts(3)) == 3


def test_a_constraint_may_be_of_a_kind_of_its_own(
    config: Config, prompts: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    constraints = [{"kl_from_base": prompts, "at_most": 0.1}]
    evaluator = make_evaluator(config({"function": "tiny_scoring:table"}, constraints=constraints), tokenizer)
    assert [(task.task, task.weight) for task in evaluator.tasks] == [("table", 1.0), ("near", 0.0)]
