from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.evaluators import EvaluateConfig, Splits, TaskSpec


def build(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"tasks": ["quiz"], **settings})


def test_a_bare_name_is_a_task() -> None:
    assert build().tasks == (TaskSpec(task="quiz"),)


def test_lm_evals_spelling_of_metric_and_filter() -> None:
    spec = TaskSpec.model_validate({"task": "quiz", "metric": "exact_match,strict"})
    assert (spec.metric, spec.filter) == ("exact_match", "strict")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"constraints": [{"task": "bbq"}]}, "must have one of at_least and at_most, but 'bbq' has neither"),
        ({"constraints": [{"task": "bbq", "at_least": 1, "at_most": 2}]}, "'bbq' has both"),
        ({"constraints": [{"at_least": 1}]}, "a task must have one of task, perplexity, kl_from_base, function"),
        ({"racing": {"error": 0.7}}, "less than 0.5"),
        ({"proxy": "reference_loglikelihood", "objective": "pareto"}, "proxy must be null with objective pareto"),
        ({"tasks": [{"perplexity": "a.txt", "function": "m:f"}]}, "but got perplexity and function"),
        ({"tasks": [{"task": "quiz", "documents": "a.txt"}]}, "must come with a function"),
        ({"tasks": [{"perplexity": "a.txt", "num_fewshot": 1}]}, "must come with an lm-eval task"),
        ({"tasks": [{"function": "nameless"}]}, "String should match pattern"),
        ({"constraints": [{"task": "bbq", "floor": 1}]}, "Extra inputs are not permitted"),
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": [{"task": "quiz", "weight": 0}]}, "greater than 0"),
        ({"tasks": [{"task": "quiz", "num_fewshot": -1}]}, "greater than or equal to 0"),
        ({"tasks": [{"task": "quiz", "metric": "acc,a", "filter": "b"}]}, "a filter must be named once"),
        ({"taks": ["quiz"]}, "Extra inputs are not permitted"),
        ({"splits": {"search": 0.7, "select": 0.2, "report": 0.2}}, "splits must sum to at most 1, but sum to 1.1"),
        ({"splits": {"search": 0.0}}, "greater than 0"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"fewshot_as_multiturn": True}, "fewshot_as_multiturn must come with apply_chat_template"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        build(**settings)
    assert says in str(caught.value)


def test_entries_of_other_kinds_are_named_after_their_file_or_function() -> None:
    config = build(tasks=[{"perplexity": "data/notes.txt"}, {"function": "mine.scores:polite", "weight": 2}, "quiz"])
    assert [(spec.task, spec.kind) for spec in config.tasks] == [
        ("notes", "perplexity"),
        ("polite", "function"),
        ("quiz", "task"),
    ]
    named = build(tasks=[{"task": "own", "kl_from_base": "prompts.txt"}]).tasks[0]
    assert (named.task, named.kind) == ("own", "kl_from_base")


def test_a_constraint_names_a_task_of_any_kind(tmp_path: Path) -> None:
    config = build(
        constraints=[{"perplexity": "notes.txt", "at_most": 20}, {"task": "bbq", "metric": "acc", "at_least": "base"}]
    )
    first, second = config.relative_to(tmp_path).constraints
    assert (first.spec.kind, first.spec.perplexity) == ("perplexity", tmp_path / "notes.txt")
    assert (second.spec.kind, second.at_least, second.margin) == ("task", "base", 0.0)
    assert EvaluateConfig.model_validate_json(config.model_dump_json()) == config


def test_paths_are_relative_to_the_folder_of_the_file(tmp_path: Path) -> None:
    assert build().relative_to(tmp_path).include_paths == ()
    assert build(include_path="tasks").relative_to(tmp_path).include_path == tmp_path / "tasks"
    several = build(include_path=["tasks", "/elsewhere"]).relative_to(tmp_path)
    assert several.include_paths == (tmp_path / "tasks", Path("/elsewhere"))


def test_a_configuration_survives_json() -> None:
    config = build(include_path=["a", "b"], splits={"search": 0.5, "select": 0.0, "report": 0.5}, limit=7)
    assert EvaluateConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("shares", [(0.1, 0.2, 0.7), (0.4, 0.2, 0.4), (1.0, 0.0, 0.0), (0.7, 0.2, 0.1)])
def test_shares_that_sum_to_one_leave_nothing_out(shares: tuple[float, float, float]) -> None:
    search, select, report = shares
    assert Splits(search=search, select=select, report=report).bounds()[2] == 1.0
