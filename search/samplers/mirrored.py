"""Samplers of Optuna's that are built anew for each proposal and look at a mirror of the study."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from evomerge.search.mirror import mirror
from evomerge.search.samplers.whole import WholePointSampler, completed, names_of, shared_names
from evomerge.search.sampling import SamplerContext


class MirroredSampler(WholePointSampler):
    """Draws the shared dimensions of all methods together, then the others of the method drawn from their own trials.

    Finished trials are seen with their whole points, running ones too, so that a sampler that keeps its distance
    from these (batch acquisition, the constant liar) can.

    Args:
        context: of one trial.
        inner: seeded for this trial.
        conditional: whether it models dimensions that only some trials have; if not, they are drawn one by one.
    """

    def __init__(self, context: SamplerContext, inner: BaseSampler, conditional: bool = False) -> None:
        super().__init__(context)
        self._inner = inner
        self._conditional = conditional

    def propose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """The sampler's point, uniform in what it leaves out."""
        seen = mirror(study, self._context.distributions)
        space = self._context.distributions
        shared = shared_names(self._context)
        point = self._inner.sample_relative(seen, trial, {name: space[name] for name in shared})
        if point and self._conditional:
            rest = {name: space[name] for name in names_of(self._context, point) if name not in point}
            point = {**point, **self._inner.sample_relative(seen, trial, rest)}
        return completed(self._context, seen, trial, point, self._inner)
