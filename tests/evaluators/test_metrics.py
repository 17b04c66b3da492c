"""What is measured on lm-eval's tasks, and that its number is the one of `lm_eval.evaluate`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval import evaluator as reference
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import InputError
from evomerge.evaluators import SPLITS, EvaluateConfig, LmEval, Scores, TaskMetric
from evomerge.evaluators.calibration import calibration_error
from evomerge.evaluators.config import TaskSpec
from evomerge.evaluators.measuring import document_score
from evomerge.evaluators.metrics import task_metric
from evomerge.evaluators.objective import objective
from evomerge.evaluators.packing import unpack
from evomerge.evaluators.quiet import quiet
from tests.evaluators.conftest import DOCUMENTS

Config = Callable[..., EvaluateConfig]

ALL_IN_ONE = {"splits": {"search": 1.0, "select": 0.0, "report": 0.0}}


@pytest.fixture
def evaluated(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, Any]]:
    """lm-eval's own results on a task or group."""

    def run(name: str) -> dict[str, Any]:
        monkeypatch.chdir(folder / "base")
        with quiet():
            loaded = TaskManager(include_path=str(folder), include_defaults=False).load([name])
            wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32)
            results: dict[str, Any] = reference.evaluate(wrapped, loaded, bootstrap_iters=0)
        return results

    return run


def own(evaluator: LmEval, model: LlamaForCausalLM) -> Scores:
    return Scores(
        tuple(score for split in SPLITS for chunk in evaluator.chunks(split) for score in evaluator.score(model, chunk))
    )


AGGREGATED = [
    ("binary", "f1"),
    ("binary", "mcc"),
    ("binary", "brier_score"),
    ("binary", "acc"),
    ("translate", "bleu"),
    ("translate", "chrf"),
    ("translate", "ter"),
    ("lengths", "middle"),
    ("lengths", "sometimes"),
    ("loglikelihood", "perplexity"),
    ("rolling", "word_perplexity"),
    ("rolling", "byte_perplexity"),
    ("rolling", "bits_per_byte"),
    ("several", "got@1"),
    ("validated", "acc"),
]


@pytest.mark.parametrize(("task", "metric"), AGGREGATED)
def test_a_tasks_number_is_that_of_lm_eval(
    task: str,
    metric: str,
    config: Config,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    evaluated: Callable[[str], dict[str, Any]],
) -> None:
    evaluator = LmEval(config({"task": task, "metric": metric}), tokenizer)
    (measured,) = evaluator.tasks
    found = own(evaluator, model).task(measured)
    results = evaluated(task)
    assert found.mean == pytest.approx(results["results"][task][f"{metric},none"], rel=1e-5)
    stated = results["higher_is_better"][task].get(metric)
    assert measured.higher_is_better == (False if stated is None else stated)
    if metric == "sometimes":
        assert 0 < found.n < DOCUMENTS
    else:
        assert found.n == DOCUMENTS


def test_a_function_of_all_documents_gets_what_the_task_gave_it(
    config: Config,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    evaluated: Callable[[str], dict[str, Any]],
) -> None:
    evaluator = LmEval(config({"task": "lengths", "metric": "parts"}), tokenizer)
    (metric,) = evaluator.tasks
    scores = own(evaluator, model)
    expected = evaluated("lengths")["results"]["lengths"]["parts,none"]
    assert metric.aggregation.of(scores.values(metric), scores.items(metric)) == expected
    assert not metric.higher_is_better
    assert np.isnan(scores.values(metric)).all()
    assert all(isinstance(unpack(str(item)), tuple) for item in scores.items(metric))


@pytest.mark.parametrize("group", ["sized", "even"])
def test_the_objective_on_a_group_is_its_own_number(
    group: str,
    config: Config,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    evaluated: Callable[[str], dict[str, Any]],
) -> None:
    evaluator = LmEval(config({"task": group, "weight": 3.0}, **ALL_IN_ONE), tokenizer)
    assert sum(task.weight for task in evaluator.tasks) == pytest.approx(3.0)
    expected = evaluated(group)["groups"][group]["acc,none"]
    assert objective(own(evaluator, model), evaluator.tasks) == pytest.approx(expected, rel=1e-12)
    weights = [task.weight for task in evaluator.tasks]
    assert weights[0] / weights[1] == pytest.approx(DOCUMENTS / 60 if group == "sized" else 1.0)


def test_a_group_weighs_its_tasks_by_the_documents_that_are_taken(
    config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    limited = LmEval(config("sized", limit=90), tokenizer).tasks
    assert limited[0].weight / limited[1].weight == pytest.approx(90 / 60)
    other = LmEval(config({"task": "sized", "metric": "acc_norm"}), tokenizer).tasks
    assert other[0].weight == other[1].weight  # the group has no number of that metric
    tagged = LmEval(config("tagged"), tokenizer).tasks
    assert [task.weight for task in tagged] == [0.5, 0.5]


def test_calibration_error_is_from_the_choices_likelihoods(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(
        config({"task": "binary", "metric": "calibration_error"}, {"task": "binary", "metric": "brier_score"},
               {"task": "binary", "metric": "acc"}),
        tokenizer,
    )  # fmt: skip
    error, brier, acc = evaluator.tasks
    assert not error.higher_is_better
    scores = own(evaluator, model)
    right = scores.values(acc)
    confidence = []
    for item in scores.items(brier):  # lm-eval's own softmax over the choices
        _, probabilities = unpack(str(item))
        confidence.append(probabilities.max())
    answers = [unpack(str(item)) for item in scores.items(error)]
    np.testing.assert_allclose([answer[0] for answer in answers], confidence, rtol=1e-6)
    assert [answer[1] for answer in answers] == right.tolist()
    np.testing.assert_allclose(scores.values(error), np.abs(confidence - right), rtol=1e-6)
    expected = 0.0
    for m in range(10):
        held = [(c, r) for c, r in zip(confidence, right, strict=True) if m / 10 < c <= (m + 1) / 10]
        if held:
            expected += abs(np.mean([r for _, r in held]) - np.mean([c for c, _ in held])) * len(held) / len(right)
    assert scores.task(error).mean == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([(1.0, 1.0)] * 3, 0.0),
        ([(1.0, 0.0)], 1.0),
        ([(0.8, 1.0), (0.8, 1.0), (0.8, 1.0), (0.8, 1.0), (0.8, 0.0)], 0.0),
        ([(0.5, 1.0), (0.45, 0.0)], abs(0.5 - 0.475)),
        ([(0.5, 1.0), (0.55, 0.0)], (0.5 + 0.55) / 2),
        ([(0.75, 1.0), (0.55, 0.0)], (0.25 + 0.55) / 2),
        ([(0.61, 1.0), (0.69, 0.0)], abs(0.5 - 0.65)),
    ],
)
def test_calibration_error_by_hand(answers: list[tuple[float, float]], expected: float) -> None:
    assert calibration_error(answers) == pytest.approx(expected)


def test_a_constraints_task_is_measured_without_weight(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    constraints = [
        {"task": "choice", "at_least": 0.1},  # what is measured anyway
        {"task": "choice", "metric": "acc_norm", "at_least": 0.1},
        {"task": "binary", "metric": "calibration_error", "at_most": 0.5},
        {"task": "generate", "metric": "checksum", "at_least": "base"},
    ]
    evaluator = LmEval(config({"task": "generate", "metric": "checksum"}, "choice", constraints=constraints), tokenizer)
    assert [(task.task, task.label, task.weight) for task in evaluator.tasks] == [
        ("generate", "checksum", 1.0),
        ("choice", "acc", 1.0),
        ("choice", "acc_norm", 0.0),
        ("binary", "calibration_error", 0.0),
    ]
    scores = own(evaluator, model)
    assert all(len(scores.keys(task)) == DOCUMENTS for task in evaluator.tasks)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"task": "generate", "metric": "calibration_error"},
         "calibration_error must be of a multiple_choice task, but 'generate' has output_type generate_until"),
        ({"task": "rolling", "metric": "word_perplexty"}, "but got 'word_perplexty'; did you mean 'word_perplexity'"),
        ("unchosen", "documents of task 'unchosen' must have choices, but number 3 has none"),
        ("untested", "task 'untested' must have a test_split or a validation_split, but has neither"),
        ({"task": "undirected"}, "metric 'length' of task 'undirected' must state `higher_is_better`"),
    ],
)  # fmt: skip
def test_what_a_task_cannot_give(task: Any, says: str, config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError) as caught:
        LmEval(config(task), tokenizer)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_constraint_is_on_a_single_task(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    for name, members in (("both", "choice, generate"), ("tagged", "choice, generate")):
        with pytest.raises(InputError, match=f"must be on a single task, but '{name}' stands for {members}"):
            LmEval(config("choice", constraints=[{"task": name, "at_least": 0.5}]), tokenizer)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"task": "thing"}, "metric 'thing' of task 'thing' must give what JSON can write .* a set cannot"),
        ({"task": "several"}, "metric of task 'several' must be one of got@1, got@2, but got 'several'"),
    ],
)
def test_results_that_are_of_no_use(
    spec: Any, says: str, config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = LmEval(config(spec), tokenizer)
    with pytest.raises(InputError) as caught:
        evaluator.score(model, evaluator.documents("search"))
    assert re.search(says, str(caught.value)), str(caught.value)


def test_a_pair_is_needed_where_log_likelihoods_are_weighed(config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    (metric,) = LmEval(config("rolling"), tokenizer).tasks
    with pytest.raises(InputError, match=r"a pair of log-likelihood and weight on each .*, but is a float"):
        document_score(metric, "a", {"word_perplexity": -3.0}, ["word_perplexity"])
    infinite = document_score(metric, "a", {"word_perplexity": (-1e6, 1)}, ["word_perplexity"])
    assert math.isnan(infinite.value)
    assert infinite.item == "[-1000000.0,1.0]"


class Plain:
    """A task written in Python, which lists no direction and averages in its own way."""

    OUTPUT_TYPE = "loglikelihood"
    _filters = (type("Filter", (), {"name": "none"})(),)

    def __init__(self, **functions: Any) -> None:
        self.functions = functions

    def aggregation(self) -> dict[str, Any]:
        return self.functions

    def higher_is_better(self) -> dict[str, Any]:
        return {}


def test_directions_that_a_task_leaves_out_are_lm_evals() -> None:
    task: Any = Plain(ter=np.mean, acc=max)
    lower, higher = (
        task_metric("plain", task, TaskSpec(task="plain", metric=metric), 1.0) for metric in ("ter", "acc")
    )
    assert not lower.higher_is_better
    assert lower.aggregation.is_mean
    assert higher.higher_is_better
    assert (higher.aggregation.name, higher.aggregation.corpus) == ("max", max)
    with pytest.raises(InputError, match="must state `higher_is_better`"):
        task_metric("plain", Plain(own=max), TaskSpec(task="plain"), 1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must have a metric"):
        task_metric("plain", Plain(), TaskSpec(task="plain"), 1.0)  # type: ignore[arg-type]


def test_a_metric_without_a_result_on_a_document_does_not_count_there() -> None:
    metric = TaskMetric("quiz", "acc")
    assert math.isnan(document_score(metric, "a", {"other": 1.0}, ["acc", "other"]).value)
    assert math.isnan(document_score(metric, "a", {}, ["acc"]).value)
    with pytest.raises(InputError, match="must be one of accuracy, but got 'acc'; did you mean 'accuracy'"):
        document_score(metric, "a", {"accuracy": 1.0}, ["acc"])
