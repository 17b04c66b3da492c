"""TensorBoard: event files in the run's folder, below `tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from evomerge.runs.tracking import Tracked, tracker


@tracker("tensorboard", package="tensorboard", install="evomerge[tensorboard]")
def tensorboard(tracked: Tracked) -> TensorBoard:
    """Another event file beside those of earlier processes; TensorBoard shows them as one run."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tracked.folder / "tensorboard"))
    writer.add_text("config", _verbatim(yaml.safe_dump(dict(tracked.config), sort_keys=False)))
    return TensorBoard(writer)


class TensorBoard:
    """A scalar for each number, the trial as its step; the answer's scalars have step 0."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def conclude(self, values: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Scalars below `result`, and texts."""
        for name, value in values.items():
            self._writer.add_scalar(f"result/{name}", value, 0)
        for name, text in texts.items():
            self._writer.add_text(name, text)

    def close(self, why: str) -> None:
        """End the event file."""
        if why:
            self._writer.add_text("stopped", why)
        self._writer.close()


def _verbatim(text: str) -> str:
    """As Markdown shows text as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())
