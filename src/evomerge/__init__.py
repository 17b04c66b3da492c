"""evomerge: evolutionary search for the best merge of language models.

    config = evomerge.load_config("search.yaml")
    run = evomerge.search(config)
    run.export("merged")

Names are imported on first use. `evomerge.search` is both the room and, called, the function `launch`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evomerge import search

if TYPE_CHECKING:
    from evomerge.engine.materialize import merge as merge
    from evomerge.engine.recipe import Recipe as Recipe
    from evomerge.runs.evaluation import evaluate as evaluate
    from evomerge.runs.run import Run as Run
    from evomerge.runs.run import open_run as open_run
    from evomerge.search.config import SearchConfig as SearchConfig
    from evomerge.search.config import load_config as load_config

_HOME = {
    "Recipe": "evomerge.engine.recipe",
    "Run": "evomerge.runs.run",
    "SearchConfig": "evomerge.search.config",
    "evaluate": "evomerge.runs.evaluation",
    "load_config": "evomerge.search.config",
    "merge": "evomerge.engine.materialize",
    "open_run": "evomerge.runs.run",
}

__all__ = [
    "Recipe",
    "Run",
    "SearchConfig",
    "evaluate",
    "launch",
    "load_config",
    "merge",
    "open_run",
    "search",
]


def launch(config: SearchConfig | str | Path, out: str | Path | None = None) -> Run:
    """Launch a search and run it to its end.

    Args:
        config: a configuration, or the path of its YAML file.
        out: the run's folder, absent or empty; by default `outputs/NAME`.

    Raises:
        InputError: when anything about the input is wrong; nothing has been written then.
    """
    from evomerge.runs.launch import start
    from evomerge.search.config import SearchConfig, load_config

    resolved = config if isinstance(config, SearchConfig) else load_config(config)
    return start(resolved, Path(out) if out is not None else Path("outputs") / resolved.name)


class _CallableRoom(ModuleType):
    """Lets `evomerge.search(config)` stand beside `evomerge.search.ledger` and the like."""

    def __call__(self, config: SearchConfig | str | Path, out: str | Path | None = None) -> Run:
        return launch(config, out)


search.__class__ = _CallableRoom


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
