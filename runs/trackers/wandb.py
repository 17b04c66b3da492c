"""Weights & Biases: the account that `wandb login` or WANDB_API_KEY names, or files in the run's folder.

WANDB_MODE=offline keeps everything below the run's folder in `wandb`, for `wandb sync` to send.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from evomerge.errors import EvomergeError
from evomerge.runs.tracking import Tracked, tracker


@tracker("wandb", package="wandb", install="evomerge[wandb]")
def wandb(tracked: Tracked) -> WeightsAndBiases:
    """The run with the study's id, in the project WANDB_PROJECT or "evomerge".

    The library's own collection is off: command line, code, git, terminal output and installed packages stay here.

    Raises:
        EvomergeError: nobody is logged in; the library would ask for a key at the terminal.
    """
    import wandb as library

    if os.environ.get("WANDB_MODE", "online") == "online" and not library.login(prompt=False, verify=False):
        raise EvomergeError("nobody is logged in; set WANDB_API_KEY, or run `wandb login`, or set WANDB_MODE=offline")
    settings = library.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_save_requirements=False,
    )
    opened = library.init(
        project=os.environ.get("WANDB_PROJECT", "evomerge"),
        id=tracked.id,
        name=tracked.name,
        config=dict(tracked.config),
        dir=str(tracked.folder),
        resume="allow",
        reinit="create_new",
        settings=settings,
    )
    opened.define_metric("trial")
    opened.define_metric("*", step_metric="trial")
    return WeightsAndBiases(opened)


class WeightsAndBiases:
    """A chart for each number over `trial`; the library's own steps have to rise, which trials of workers do not."""

    def __init__(self, opened: Any) -> None:
        self._run = opened

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A row of the history."""
        self._run.log({"trial": step, **values})

    def conclude(self, values: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """The summary, below `result`."""
        self._run.summary.update({f"result/{name}": told for name, told in {**values, **texts}.items()})

    def close(self, why: str) -> None:
        """Send what is left; a run that stopped early counts as failed until it is resumed."""
        if why:
            self._run.summary["stopped"] = why
        self._run.finish(exit_code=1 if why else 0)
