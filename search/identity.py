"""What scores depend on besides recipes, the same for all workers: weights, tasks, and libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version

import optuna

from evomerge.errors import InputError
from evomerge.search.attributes import set_once
from evomerge.search.study import FINGERPRINT

VERSIONS = "evomerge:versions"

_WHOLE = ("evomerge", "lm_eval")  # prompts, answers and merges may be others in any other version
_MINOR = ("torch", "transformers")  # the third number is of corrections
_SHOWN = 12  # digits of a digest


def versions() -> dict[str, str]:
    """The versions installed here of the libraries that scores come from."""
    return {name: version(name) for name in (*_WHOLE, *_MINOR)}


def check_same_inputs(study: optuna.Study, fingerprint: Mapping[str, str]) -> None:
    """Raise InputError, with digests, unless models and tasks are what they were when the study began.

    Args:
        study: keeps the first fingerprint that it is shown.
        fingerprint: a digest for each model and for the tasks, by the configuration's key.
    """
    if FINGERPRINT not in study.user_attrs and set_once(study, FINGERPRINT, dict(fingerprint)):
        return
    stored = study.user_attrs[FINGERPRINT]
    changed = [
        f"{key} (was {_short(stored.get(key))}, is {_short(fingerprint.get(key))})"
        for key in sorted({*stored, *fingerprint})
        if stored.get(key) != fingerprint.get(key)
    ]
    if changed:
        raise InputError(
            f"models and tasks must be those the study began with, but these have changed: {', '.join(changed)}"
        )


def check_same_versions(study: optuna.Study, tell: Callable[[str], None]) -> None:
    """Raise InputError unless a worker here would give the scores that the study's others do.

    evomerge and lm_eval have to be of the very version, torch and transformers of the same first two numbers; other
    differences are told.

    Args:
        study: keeps the versions of the process that launched it last.
        tell: of differences that are let pass.
    """
    stored, here = study.user_attrs.get(VERSIONS, {}), versions()
    differ = _differences(stored, here)
    said = [f"{name} {stored[name]}, here {here[name]}" for name in differ]
    if any(_matters(name, stored[name], here[name]) for name in differ):
        raise InputError(
            f"a worker must have the versions that the study is scored with, but they differ: {'; '.join(said)}"
        )
    if said:
        tell(f"versions differ, which should not change scores: {'; '.join(said)}")


def note_versions(study: optuna.Study, tell: Callable[[str], None]) -> None:
    """Let the study be scored with the versions installed here from now on, and say so where others were before."""
    stored, here = study.user_attrs.get(VERSIONS, {}), versions()
    said = [f"{name} {stored[name]}, now {here[name]}" for name in _differences(stored, here)]
    if said:
        tell(f"scores so far are of other versions, and may differ from those to come: {'; '.join(said)}")
    if stored != here:
        study.set_user_attr(VERSIONS, here)


def _differences(stored: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The names whose versions differ; what the study does not say yet does not."""
    return [name for name in here if stored.get(name, here[name]) != here[name]]


def _matters(name: str, stored: str, here: str) -> bool:
    return name in _WHOLE or stored.split(".")[:2] != here.split(".")[:2]


def _short(digest: str | None) -> str:
    return "nothing" if digest is None else digest[:_SHOWN]
