"""What the checks look at: each thing is found out once, when the first check asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import InputError
from evomerge.runs.doctor.findings import LeftOut
from evomerge.runs.doctor.once import once
from evomerge.runs.doctor.sources import Source, sources_of
from evomerge.search.config import SearchConfig

if TYPE_CHECKING:
    import torch

    from evomerge.engine.alignment import Alignment
    from evomerge.engine.arena import Arena
    from evomerge.engine.memory import MemoryPlan
    from evomerge.evaluators import Document, Split
    from evomerge.runs.doctor.tasks import Tasks
    from evomerge.spaces import Merge, Space


class Subject:
    """A search that might be launched.

    Every attribute raises InputError where the configuration or what it names is wrong, and LeftOut where something is
    out of sight.

    Args:
        config: of the search.
        offline: look at nothing that is not on this machine.
        weights: whether weights may be read, a sample of them.
        folder: where the run would be.

    Attributes:
        parts: what checks found out beyond lines, as plain data by name.
    """

    def __init__(
        self, config: SearchConfig, *, offline: bool = False, weights: bool = True, folder: Path | None = None
    ) -> None:
        self.config = config
        self.offline = offline
        self.weights = weights
        self.folder = folder or Path("outputs") / config.name
        self.parts: dict[str, Any] = {}

    @once
    def sources(self) -> tuple[Source, ...]:
        """The base and the experts, each as far as it is on this machine."""
        return sources_of(self.config.models.base, self.config.models.experts)

    @once
    def num_layers(self) -> int:
        """The number of the base's decoder layers, from its configuration alone."""
        from evomerge.runs.spaces import layers_of

        source = self.sources[0]
        if source.hub and isinstance(source.held, LeftOut):
            if self.offline:
                raise LeftOut(f"the number of layers: the configuration of {source.ref.model} is not on this machine")
            return layers_of(source.ref)
        return layers_of(source.checkpoint.ref)

    @once
    def merges(self) -> list[Merge]:
        """The methods with the recipes that their candidates fill."""
        from evomerge.search.merges import merges_of

        return merges_of(self.config)

    @once
    def space(self) -> Space:
        """What the search varies."""
        from evomerge.spaces import Space

        return Space(self.config.space, self.num_layers, self.merges)

    @once
    def fit(self) -> Alignment:
        """Base and experts in one shape; weights are read only where a model has a head beside its embedding."""
        from evomerge.engine.alignment import align

        base, *experts = (source.checkpoint for source in self.sources)
        return align(base, experts, self.config.merge.tokenizer)

    @once
    def alignment(self) -> Alignment:
        """The same for checks that do not have to tell why models do not fit together."""
        try:
            return self.fit
        except InputError:
            raise LeftOut("it takes models that fit together") from None

    @once
    def device(self) -> torch.device:
        """Where candidates would be scored."""
        from evomerge.engine.model import choose_device

        return choose_device(self.config.runtime.device)

    @once
    def arenas(self) -> list[Arena]:
        """How the candidate's parameters would be laid out."""
        from evomerge.engine.live import LiveModel
        from evomerge.engine.model import DTYPES, choose_devices

        dtype = self.config.merge.dtype
        devices = choose_devices(self.config.runtime.device, self.alignment, dtype)
        return LiveModel(self.alignment, DTYPES[dtype], devices).arenas

    @once
    def memory(self) -> MemoryPlan:
        """What would be kept where."""
        from evomerge.engine.memory import Crowd, plan_memory
        from evomerge.engine.method import METHODS
        from evomerge.sizes import parse_size

        limit, workers = self.config.runtime.memory_limit, self.workers_here
        return plan_memory(
            self.arenas,
            [source.ref.name for source in self.sources],
            limit=None if limit is None else parse_size(limit),
            ranked=any(METHODS.get(method).ranked for method in self.config.merge.method),
            crowd=Crowd(workers, -(-workers // self.gpus) if self.gpus else workers, shares=workers > 1),
        )

    @property
    def workers_here(self) -> int:
        """Workers of this host; of a cluster's, one is taken to be here."""
        runtime = self.config.runtime
        return 1 if runtime.launcher == "ray" else runtime.workers

    @once
    def gpus(self) -> int:
        """GPUs that workers may have; 0 where candidates are scored on the CPU."""
        import torch

        return torch.cuda.device_count() if self.device.type == "cuda" else 0

    @once
    def tokenizer(self) -> Any:
        """The candidate's tokenizer; the base's where models do not fit and the candidate would have that."""
        try:
            return self.alignment.tokenizer
        except (InputError, LeftOut):
            if self.config.merge.tokenizer != "base":
                raise LeftOut("the candidate's tokenizer: it takes models that fit together") from None
        try:
            return self.sources[0].checkpoint.tokenizer()
        except (InputError, LeftOut):
            raise LeftOut("the base's tokenizer") from None

    @once
    def tasks(self) -> Tasks:
        """The tasks that load."""
        from evomerge.runs.doctor.tasks import load

        try:
            tokenizer = self.tokenizer
        except LeftOut:
            tokenizer = None
        return load(self.config.evaluate, tokenizer, offline=self.offline)

    def documents(self, task: str, split: Split) -> list[Document]:
        """The documents of a split of a task."""
        return [document for document in self.tasks.documents(split) if document.task == task]
