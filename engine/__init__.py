"""Weights: checkpoints, merge methods, and materializing a recipe into a live model.

Names are imported on first use, so that rooms without torch can import `evomerge.engine.recipe`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.engine.checkpoint import Checkpoint, open_checkpoint
    from evomerge.engine.compatibility import check_compatible
    from evomerge.engine.export import save_checkpoint, save_contents, weights_digest
    from evomerge.engine.materialize import Merger, StreamedMerger, merge
    from evomerge.engine.method import METHODS, MergeMethod, check_recipe, merge_method, validate
    from evomerge.engine.model import load_model
    from evomerge.engine.recipe import Group, ModelRef, ParameterSpec, Recipe, StackLayer
    from evomerge.engine.tensors import merge_tensors

_HOMES = {
    "Checkpoint": "checkpoint",
    "open_checkpoint": "checkpoint",
    "check_compatible": "compatibility",
    "save_checkpoint": "export",
    "save_contents": "export",
    "weights_digest": "export",
    "Merger": "materialize",
    "StreamedMerger": "materialize",
    "merge": "materialize",
    "load_model": "model",
    "merge_tensors": "tensors",
    "METHODS": "method",
    "MergeMethod": "method",
    "check_recipe": "method",
    "merge_method": "method",
    "validate": "method",
    "Group": "recipe",
    "ModelRef": "recipe",
    "ParameterSpec": "recipe",
    "Recipe": "recipe",
    "StackLayer": "recipe",
}

__all__ = [
    "METHODS",
    "Checkpoint",
    "Group",
    "MergeMethod",
    "Merger",
    "ModelRef",
    "ParameterSpec",
    "Recipe",
    "StackLayer",
    "StreamedMerger",
    "check_compatible",
    "check_recipe",
    "load_model",
    "merge",
    "merge_method",
    "merge_tensors",
    "open_checkpoint",
    "save_checkpoint",
    "save_contents",
    "validate",
    "weights_digest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
