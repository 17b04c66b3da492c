"""From the value of `search.sampler` to the sampler of one trial."""

from __future__ import annotations

from collections.abc import Callable

from optuna.samplers import BaseSampler

from evomerge.errors import InputError, unknown_name
from evomerge.search import sampling
from evomerge.search.samplers.options import check_options


def make_sampler(name: str, context: sampling.SamplerContext) -> BaseSampler:
    """The sampler of one trial.

    Args:
        name: of a sampler of evomerge's or of one that an entry point registers; `package.module:Class` or
            `optunahub:PACKAGE:Class` of a sampler of Optuna's kind.
        context: of the trial; its options are checked against the signature of what builds the sampler.

    Raises:
        InputError: the name is unknown, its module or class cannot be imported, an option is wrong, or the sampler
            cannot search the space or its objectives.
    """
    check_name(name)
    if is_external(name):
        from evomerge.search.samplers.external import external

        return external(name, context)
    factory: Callable[..., BaseSampler] = sampling.SAMPLERS.get(name)
    return factory(context, **check_options(factory, context.options))


def is_external(name: str) -> bool:
    """Whether the name is that of a class outside of evomerge."""
    return ":" in name


def known(name: str) -> bool:
    """Whether `make_sampler` knows the name; whether an external class is there is left to it."""
    return is_external(name) or name in sampling.SAMPLERS.names()


def check_name(name: str) -> None:
    """Raise InputError with the nearest name unless the name is known.

    Of an external class the form is checked: both sides of the last colon must be given.
    """
    if is_external(name) and not all(name.rpartition(":")[::2]):
        raise InputError(f"{sampling.SAMPLERS.kind} must be package.module:Class, but got {name!r}")
    if not known(name):
        raise unknown_name(sampling.SAMPLERS.kind, name, [sampling.AUTO, *sampling.SAMPLERS.names()])
