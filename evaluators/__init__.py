"""What good means: a model in, scores of single documents out.

Names are loaded on first use, so that types and configuration come without torch or lm-eval. Two functions share
their module's name and are imported from there: `objective.objective` and the decorator `evaluator.evaluator`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.evaluators.config import Constraint as Constraint
    from evomerge.evaluators.config import EvaluateConfig as EvaluateConfig
    from evomerge.evaluators.config import Splits as Splits
    from evomerge.evaluators.config import TaskSpec as TaskSpec
    from evomerge.evaluators.evaluator import EVALUATORS as EVALUATORS
    from evomerge.evaluators.evaluator import Evaluator as Evaluator
    from evomerge.evaluators.evaluator import make_evaluator as make_evaluator
    from evomerge.evaluators.evaluator import score_split as score_split
    from evomerge.evaluators.harness import LmEval as LmEval
    from evomerge.evaluators.types import SPLITS as SPLITS
    from evomerge.evaluators.types import Document as Document
    from evomerge.evaluators.types import DocumentScore as DocumentScore
    from evomerge.evaluators.types import Scores as Scores
    from evomerge.evaluators.types import Split as Split
    from evomerge.evaluators.types import TaskMetric as TaskMetric
    from evomerge.evaluators.types import TaskScore as TaskScore

_HOME = {
    "Constraint": "config",
    "EvaluateConfig": "config",
    "Splits": "config",
    "TaskSpec": "config",
    "EVALUATORS": "evaluator",
    "Evaluator": "evaluator",
    "make_evaluator": "evaluator",
    "score_split": "evaluator",
    "LmEval": "harness",
    "SPLITS": "types",
    "Document": "types",
    "DocumentScore": "types",
    "Scores": "types",
    "Split": "types",
    "TaskMetric": "types",
    "TaskScore": "types",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
