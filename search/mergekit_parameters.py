"""The parameters of mergekit's methods, under its names and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from evomerge.errors import InputError, unknown_name
from evomerge.search.settings import Scalar

HOW = ("int8_mask", "max_iter", "tol", "eps")
"""They say how mergekit computes, not what; karcher here goes on until nothing moves."""

BASELESS = ("linear", "karcher", "passthrough")
"""Methods for which mergekit takes the base as one input like any other."""

WITHOUT_BASE = ("nuslerp", "multislerp")
"""Methods that work on task vectors where there is a base, and on weights where there is none."""


class Parameter(NamedTuple):
    """One parameter of a method.

    Attributes:
        theirs: mergekit's name.
        ours: the recipe's; empty: it has no effect.
        per_model: whether each model has its own.
        switch: whether it is true or false.
        default: mergekit's; None: it must be given.
    """

    theirs: str
    ours: str
    per_model: bool = False
    switch: bool = False
    default: Scalar | None = None

    def read(self, value: Scalar) -> bool | float:
        """A value of the file. Raises InputError when it is none for this parameter."""
        if self.switch:
            known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            found = known.get(str(value).lower().removesuffix(".0"))
            if found is None:
                raise InputError(f"{self.theirs} must be true or false, but got {value!r}")
            return found
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{self.theirs} must be a number, but got {value!r}") from None


def _task_arithmetic(*further: Parameter, normalize: bool, density: bool = True) -> tuple[Parameter, ...]:
    return (
        Parameter("weight", "weight", per_model=True),
        Parameter("density", "density" if density else "", per_model=True, default=1.0),
        Parameter("normalize", "normalize", switch=True, default=normalize),
        Parameter("lambda", "lambda", default=1.0),
        *further,
    )


_RESCALE = Parameter("rescale", "rescale", switch=True, default=True)
_NO_RESCALE = Parameter("rescale", "rescale", switch=True, default=False)
_GAMMA = Parameter("gamma", "gamma", per_model=True, default=0.01)
_EPSILON = Parameter("epsilon", "epsilon", per_model=True, default=0.15)
_WEIGHT = Parameter("weight", "weight", per_model=True)

METHODS: Mapping[str, tuple[Parameter, ...]] = {
    "task_arithmetic": _task_arithmetic(Parameter("rescale", "", switch=True), normalize=False, density=False),
    "ties": _task_arithmetic(_NO_RESCALE, normalize=True),
    "dare_linear": _task_arithmetic(_RESCALE, normalize=False),
    "dare_ties": _task_arithmetic(_RESCALE, normalize=False),
    "breadcrumbs": _task_arithmetic(_NO_RESCALE, _GAMMA, normalize=False),
    "breadcrumbs_ties": _task_arithmetic(_NO_RESCALE, _GAMMA, normalize=False),
    "della": _task_arithmetic(_RESCALE, _EPSILON, normalize=True),
    "della_linear": _task_arithmetic(_RESCALE, _EPSILON, normalize=False),
    "linear": (_WEIGHT, Parameter("normalize", "normalize", switch=True, default=True)),
    "slerp": (Parameter("t", "t"),),
    "nearswap": (Parameter("t", "t"),),
    "nuslerp": (
        _WEIGHT,
        Parameter("nuslerp_row_wise", "nuslerp_row_wise", switch=True, default=False),
        Parameter("nuslerp_flatten", "row_wise", switch=True, default=True),
    ),
    "multislerp": (_WEIGHT, Parameter("normalize_weights", "normalize", switch=True, default=True)),
    "karcher": (),
    "model_stock": (Parameter("filter_wise", "filter_wise", switch=True, default=False),),
    "sce": (Parameter("select_topk", "select_topk", default=1.0),),
    "ram": (Parameter("epsilon", "epsilon", default=1e-5),),
    "arcee_fusion": (),
    "passthrough": (Parameter("scale", "scale", per_model=True, default=1.0),),
}
"""Of the methods that both have."""

KNOWN = {parameter.theirs for parameters in METHODS.values() for parameter in parameters} | {*HOW}


def parameters_of(method: str) -> tuple[Parameter, ...]:
    """Those that have an effect. Raises InputError for a method that is not mergekit's and ours."""
    if method not in METHODS:
        raise unknown_name("merge_method of a mergekit recipe", method, METHODS)
    return tuple(parameter for parameter in METHODS[method] if parameter.ours)


def idle_of(method: str, given: str) -> bool:
    """Whether mergekit takes a parameter of that name and does nothing with it.

    Raises:
        InputError: no method of mergekit has it.
    """
    if given not in KNOWN:
        raise unknown_name(f"a parameter of {method}", given, {each.theirs for each in METHODS[method]} | {*HOW})
    return given not in {parameter.theirs for parameter in parameters_of(method)} and given not in HOW


def options_of(method: str, values: Mapping[str, bool], based: bool) -> dict[str, Any]:
    """The recipe's options from the switches of the file.

    Args:
        method: of mergekit.
        values: by mergekit's names, defaults included.
        based: whether the file names a base model.

    Raises:
        InputError: a switch asks for what is not there.
    """
    options: dict[str, Any] = {}
    for parameter in parameters_of(method):
        if parameter.switch:
            options[parameter.ours] = values[parameter.theirs]
    if "rescale" in options:
        random = method.startswith(("dare", "della"))
        if options["rescale"] and not random:
            raise InputError(f"rescale of {method} must be false: only dare and della rescale what they keep")
        options["rescale"] = "l1" if options["rescale"] else "none"
        if not random:
            del options["rescale"]
    if method == "nuslerp":
        options["row_wise"] = not options["row_wise"]
        if options.pop("nuslerp_row_wise") and options["row_wise"]:
            raise InputError("nuslerp_row_wise must be false (arcs run along the last axis here), but got True")
    if method in WITHOUT_BASE:
        options["task_vectors"] = based
    return options
