"""Whether methods, space, sampler and warm starts go together, and whether the trials are enough for them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.findings import Finding, LeftOut, error, ok, warning
from evomerge.runs.doctor.subject import Subject

CURRICULUM = ("auto",)
"""Samplers that begin with few numbers and take in more as trials allow."""

GENERATIONS = 10
"""Populations over which CMA-ES adapts its step size; its covariance takes some n^2 candidates (arXiv:1604.00772)."""

PER_DIMENSION = {"gp": 2, "tpe": 4}
"""Trials a dimension below which a model over all dimensions at once has little to stand on: at 64 dimensions and 200
trials a tree-structured one lost to the plain average, a Gaussian process won narrowly."""


@check("methods", 40)
def methods(subject: Subject) -> Iterator[Finding]:
    """Whether the methods exist, take these options and so many experts."""
    for merge in subject.merges:
        options = ", ".join(f"{key} {value}" for key, value in merge.template.options.items())
        yield ok(f"{merge.template.method} takes {len(merge.template.experts)} experts{options and f'; {options}'}")


@check("space", 45)
def space(subject: Subject) -> Iterator[Finding]:
    """What is varied, and whether recipes of the space cover every parameter."""
    from evomerge.engine.layers import assign

    found = subject.space
    for method in found.methods:
        yield ok(f"{method}: {len(found.dimensions(method))} dimensions over {subject.num_layers} layers")
    try:
        layout = subject.alignment.layout
    except LeftOut:
        return
    places = {slot.name: slot.place for slot in layout.slots}
    for method in found.methods:
        constant = found.constant(method, {})[0]
        highest = {dimension.name: dimension.high for dimension in found.dimensions(method)}
        for point in (constant, {**constant, **highest}):
            assign(found.recipe(point).groups, places, layout.num_layers)


@check("warm starts", 50)
def warm_starts(subject: Subject) -> Iterator[Finding]:
    """Whether warm starts and their recipes, and the models that constraints refer to, are there."""
    from evomerge.search.constraints import check_references
    from evomerge.search.warm_starts import check_warm_starts

    config = subject.config
    experts = [expert.name for expert in config.models.experts]
    check_warm_starts(config.search.warm_start, config.merge.method, experts)
    check_references(config.evaluate, experts)
    if not config.search.warm_start:
        yield warning(
            "no warm starts: nothing says what plain recipes are worth",
            "search.warm_start: [uniform, experts, sweep] costs a few trials and is hard to beat in few trials",
        )
    else:
        yield ok(", ".join(config.search.warm_start))


@check("sampler", 55)
def sampler(subject: Subject) -> Iterator[Finding]:
    """Whether the sampler can search this space, and whether the trials are enough for it."""
    from evomerge.search.samplers.making import check_name, make_sampler
    from evomerge.search.sampling import AUTO, SamplerContext, choose_sampler, distributions

    config = subject.config
    if config.search.sampler != AUTO:
        check_name(config.search.sampler)
    found = subject.space
    objectives = 2 if config.evaluate.objective == "pareto" else 1
    name, why = choose_sampler(config.search.sampler, found, config.search.trials, objectives)
    context = SamplerContext(
        config.search.seed, 0, distributions(found), objectives, options=config.search.sampler_options, space=found
    )
    make_sampler(name, context)
    dimensions = max(len(found.dimensions(method)) for method in found.methods)
    if dimensions == 0:
        yield error("a search must have something to vary, but the space has no dimension", "give a weight bounds")
        return
    yield _enough(name, why, dimensions, config.search.trials)


def _enough(name: str, why: str, dimensions: int, trials: int) -> Finding:
    fewer = "vary fewer numbers (`space.layers: uniform` or `blocks`), raise `search.trials`, or leave the sampler auto"
    if name == "cmaes":
        population = 4 + math.floor(3 * math.log(dimensions))
        if trials < GENERATIONS * population:
            generations = trials // population
            return warning(
                f"cmaes: {trials} trials are {generations} generations of {population} over {dimensions} dimensions; "
                f"it adapts over about {GENERATIONS}",
                fewer,
            )
    if name in PER_DIMENSION and trials < PER_DIMENSION[name] * dimensions:
        return warning(
            f"{name}: {trials} trials for {dimensions} dimensions; at least {PER_DIMENSION[name] * dimensions} "
            f"let it tell them apart",
            fewer,
        )
    if name in ("random", "qmc") and dimensions > 10:
        return warning(f"{name}: {dimensions} dimensions are too many to hit a good point by chance", fewer)
    return ok(f"{name}, {trials} trials: {why}")
