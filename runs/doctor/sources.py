"""The models of a configuration, as far as they are on this machine. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.engine.checkpoint import HUB_FILES, HUB_ID
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.runs.doctor.findings import LeftOut

if TYPE_CHECKING:
    from evomerge.engine.checkpoint import Checkpoint


@dataclass(frozen=True)
class Source:
    """One model.

    Attributes:
        label: "base", or "expert NAME".
        ref: as the configuration has it.
        hub: the hub ids among its model and adapter.
        held: the checkpoint, or what keeps it from being opened.
    """

    label: str
    ref: ModelRef
    hub: tuple[str, ...]
    held: Checkpoint | InputError | LeftOut

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint. Raises LeftOut when it is wrong, which the check of models tells, or not on this machine."""
        if isinstance(self.held, LeftOut):
            raise self.held
        if isinstance(self.held, InputError):
            raise LeftOut(f"it takes {self.label}, whose files have an error")
        return self.held


def sources_of(base: ModelRef, experts: Sequence[ModelRef]) -> tuple[Source, ...]:
    """The base, then the experts in order."""
    return (_source("base", base), *(_source(f"expert {expert.name}", expert) for expert in experts))


def is_hub_id(source: str) -> bool:
    """Whether it names a repository of the hub and nothing on this machine."""
    known = not source.startswith((".", "/", "~")) and HUB_ID.fullmatch(source) is not None
    return known and not Path(source).expanduser().exists()


def _source(label: str, ref: ModelRef) -> Source:
    from evomerge.engine.checkpoint import open_checkpoint

    hub = tuple(name for name in (ref.model, ref.adapter) if name is not None and is_hub_id(name))
    try:
        adapter = None if ref.adapter is None else _place(ref.adapter, None)
        place = ref.model_copy(update={"model": _place(ref.model, ref.revision), "adapter": adapter})
        return Source(label, ref, hub, open_checkpoint(place))
    except (InputError, LeftOut) as error:
        return Source(label, ref, hub, error)


def _place(source: str, revision: str | None) -> str:
    """The folder of a hub id in the hub's cache; anything else as it is. Raises LeftOut for one that is not there."""
    if not is_hub_id(source):
        return source
    from huggingface_hub import snapshot_download

    where = f"{source}{f' at {revision}' if revision else ''}"
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=HUB_FILES, local_files_only=True))
    except Exception:  # whatever the cache lacks
        raise LeftOut(f"{where} is not on this machine") from None
    if not any(folder.glob("*.safetensors")):
        raise LeftOut(f"of {where} only small files are on this machine, not its weights")
    return str(folder)
