"""What a search stands on, built and checked once: the live model, the space, and the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.materialize import Merger
from evomerge.engine.model import choose_device
from evomerge.engine.recipe import Group, Recipe
from evomerge.evaluators import Evaluator, make_evaluator
from evomerge.search.config import ModelsConfig, SearchConfig
from evomerge.search.constraints import check_references
from evomerge.search.merges import merges_of
from evomerge.search.places import MovedMerger, Places
from evomerge.search.samplers.making import make_sampler
from evomerge.search.sampling import SamplerContext, choose_sampler, distributions
from evomerge.search.warm_starts import check_warm_starts
from evomerge.sizes import parse_size
from evomerge.spaces import Space


@dataclass(frozen=True)
class Problem:
    """Attributes are built by `build_problem`; the merger's model is overwritten by each candidate."""

    config: SearchConfig
    merger: Merger
    evaluator: Evaluator
    space: Space
    sources: ModelsConfig | None = None  # where the models lie on this host; None: where the configuration says

    def fingerprint(self) -> dict[str, str]:
        """Digests of what the scores depend on: each model's weights, and the requests of all tasks."""
        models = self.sources or self.config.models
        sources = {"models.base": models.base}
        sources |= {f"models.experts {expert.name}": expert for expert in models.experts}
        digests = {name: open_checkpoint(model).digest() for name, model in sources.items()}
        return {**digests, "evaluate.tasks": self.evaluator.fingerprint()}


def build_problem(
    config: SearchConfig,
    tell: Callable[[str], None] = lambda line: None,
    *,
    load: bool = True,
    places: Places | None = None,
    shared: Path | None = None,
    workers: int = 1,
) -> Problem:
    """Check everything that can be checked, the cheap before the dear, then load the models and the tasks.

    Args:
        config: of the search.
        tell: told of the rules applied to the models and of the memory plan, line by line.
        load: False: everything is checked and nothing heavy loaded; the problem cannot be searched then.
        places: where models and task files of the configuration lie on this host; None: where it says.
        shared: a folder that processes of this host share the sources' weights in; None: they are this process's own.
        workers: processes of this host that share its memory.

    Raises:
        InputError: when anything of the configuration, the models or the tasks is wrong; nothing has been written.
    """
    merges = merges_of(config)
    check_warm_starts(config.search.warm_start, config.merge.method, [each.name for each in config.models.experts])
    check_references(config.evaluate, [expert.name for expert in config.models.experts])
    choose_device(config.runtime.device)
    here = places.config(config) if places else config
    merger = _merger(here, tell, places, shared, workers)
    space = Space(config.space, merger.num_layers, merges)
    _check_sampler(config, space)
    for method in space.methods:
        constant = space.constant(method, {})[0]
        highest = {dimension.name: dimension.high for dimension in space.dimensions(method)}
        merger.check(space.recipe(constant))
        merger.check(space.recipe({**constant, **highest}))
    evaluator = make_evaluator(here.evaluate, merger.tokenizer)
    if load:
        merger.load()
    return Problem(config, merger, evaluator, space, here.models)


def _merger(
    config: SearchConfig, tell: Callable[[str], None], places: Places | None, shared: Path | None, workers: int
) -> Merger:
    limit = config.runtime.memory_limit
    arguments = (config.models.base, config.models.experts, config.merge.dtype, config.runtime.device)
    named: dict[str, Any] = {
        "tokenizer": config.merge.tokenizer,
        "allow_nonfinite": config.merge.allow_nonfinite,
        "memory_limit": None if limit is None else parse_size(limit),
        "tell": tell,
        "methods": config.merge.method,
        "load": False,
        "shared": shared,
        "workers": workers,
    }
    return MovedMerger(places, *arguments, **named) if places else Merger(*arguments, **named)


def reference_recipes(config: SearchConfig) -> dict[str, Recipe]:
    """What a winner has to beat, by name: `base`, each expert, and `uniform`, the plain average of the experts."""
    experts = [expert.name for expert in config.models.experts]

    def recipe(method: str, weights: dict[str, float]) -> Recipe:
        return Recipe(
            base=config.models.base,
            experts=config.models.experts,
            method=method,
            groups=(Group(parameters={"weight": dict(weights)}),),
            dtype=config.merge.dtype,
            tokenizer=config.merge.tokenizer,
            allow_nonfinite=config.merge.allow_nonfinite,
            seed=config.search.seed,
        )

    found = {"base": recipe("task_arithmetic", dict.fromkeys(experts, 0.0))}
    for name in experts:
        label = name if name not in ("base", "uniform", "sweep") else f"expert {name}"
        found[label] = recipe("linear", {**dict.fromkeys(experts, 0.0), name: 1.0})
    if len(experts) > 1:
        found["uniform"] = recipe("linear", dict.fromkeys(experts, 1.0))
    return found


def _check_sampler(config: SearchConfig, space: Space) -> None:
    objectives = 2 if config.evaluate.objective == "pareto" else 1  # a group may turn out to be more tasks
    name, _ = choose_sampler(config.search.sampler, space, config.search.trials, objectives)
    context = SamplerContext(
        config.search.seed, 0, distributions(space), objectives, options=config.search.sampler_options, space=space
    )
    make_sampler(name, context)
