"""Scoring any model the way a search would."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.materialize import merger_of
from evomerge.engine.model import load_model
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError, unknown_name
from evomerge.evaluators import (
    SPLITS,
    EvaluateConfig,
    Evaluator,
    Scores,
    Split,
    TaskMetric,
    make_evaluator,
    score_split,
)
from evomerge.evaluators.objective import objective
from evomerge.evaluators.types import titles
from evomerge.search.config import SearchConfig
from evomerge.search.recipes import is_recipe, read_recipe
from evomerge.search.trust import require_trusted_recipe
from evomerge.sizes import parse_size

SplitChoice = Literal["search", "select", "report", "all"]
_CHOICES: dict[str, SplitChoice] = {"search": "search", "select": "select", "report": "report", "all": "all"}


def evaluate(model: Any, tokenizer: Any, config: EvaluateConfig, split: SplitChoice = "all") -> Scores:
    """The document scores of a live model on a split, or on all three.

    Args:
        model: a transformers model for causal language modelling.
        tokenizer: its tokenizer.
        config: the section `evaluate` of a configuration, or a whole SearchConfig.
        split: which documents.

    Raises:
        InputError: when a task is wrong, the split has no documents, or a task is measured against the base and the
            configuration does not say which that is.
        CandidateError: when the model cannot be scored.
    """
    section = config.evaluate if isinstance(config, SearchConfig) else config
    evaluator = make_evaluator(section, tokenizer)
    if evaluator.needs_reference:
        if not isinstance(config, SearchConfig):
            raise InputError(
                "config must be a whole configuration where a task is measured against the base, "
                "but got its section evaluate"
            )
        _refer(evaluator, config)
    return _scores(evaluator, model, split)


def evaluate_source(
    source: str,
    config: SearchConfig,
    split: str,
    tell: Callable[[str], None] = lambda line: None,
    trusted: Collection[str] = (),
) -> dict[str, Any]:
    """Score a model folder, a hub id or a recipe file in the precision of the configuration's candidates.

    Args:
        source: the folder, id or file.
        config: how it is scored.
        split: "search", "select", "report" or "all".
        tell: told of the rules applied to the models and of the memory plan.
        trusted: models whose own code may run where a recipe wants it, beside those that the configuration trusts.

    Returns:
        {model, split, objective, tasks: {task: {metric, value, stderr, n}}}; `stderr` is None with one document.

    Raises:
        InputError: there is no such split, model or recipe, a task does not load, or a recipe wants to run the code of
            a model that nobody has named.
    """
    if split not in _CHOICES:
        raise unknown_name("the split", split, _CHOICES)
    device, limit = config.runtime.device, config.runtime.memory_limit
    limit = None if limit is None else parse_size(limit)
    if is_recipe(source):
        recipe = read_recipe(Path(source))
        models = (config.models.base, *config.models.experts)
        require_trusted_recipe(recipe, [*trusted, *(ref.model for ref in models if ref.trust_remote_code)], source)
        merger = merger_of(recipe, device, memory_limit=limit, tell=tell)
        merger.apply(recipe)
        model, tokenizer = merger.model, merger.tokenizer
    else:
        reference = ModelRef(model=source).relative_to(Path.cwd())
        model = load_model(reference, config.merge.dtype, device)
        tokenizer = open_checkpoint(reference).tokenizer()
    evaluator = make_evaluator(config.evaluate, tokenizer)
    if evaluator.needs_reference:
        _refer(evaluator, config)
    scores = _scores(evaluator, model, _CHOICES[split])
    return {
        "model": source,
        "split": split,
        "objective": objective(scores, evaluator.tasks, config.evaluate.objective),
        "tasks": {
            title: _told(scores, task) for title, task in zip(titles(evaluator.tasks), evaluator.tasks, strict=True)
        },
    }


def _told(scores: Scores, task: TaskMetric) -> dict[str, Any]:
    mean, stderr, n = scores.task(task)
    return {"metric": task.label, "value": mean, "stderr": None if math.isnan(stderr) else stderr, "n": n}


def _refer(evaluator: Evaluator, config: SearchConfig) -> None:
    """Show the evaluator the base, in the precision of the candidates."""
    evaluator.refer(load_model(config.models.base, config.merge.dtype, config.runtime.device))


def _scores(evaluator: Evaluator, model: Any, split: SplitChoice) -> Scores:
    """Splits are scored one after another, in the chunks that a search scores them in."""
    wanted: tuple[Split, ...] = SPLITS if split == "all" else (split,)
    scores = Scores()
    for each in wanted:
        scores |= score_split(evaluator, model, each, "given")
    if not scores.documents:
        raise InputError(f"the split must have documents, but {split!r} has none")
    return scores
