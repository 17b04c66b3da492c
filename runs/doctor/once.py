"""Attributes that are computed when first asked for; what went wrong then is kept as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from evomerge.errors import InputError
from evomerge.runs.doctor.findings import LeftOut

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - used as a decorator, like `property`
    """As `functools.cached_property`, but an InputError or LeftOut is raised again without computing anything again."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__
        self._name = compute.__name__

    @overload
    def __get__(self, owner: None, kind: type) -> once[T]: ...

    @overload
    def __get__(self, owner: object, kind: type) -> T: ...

    def __get__(self, owner: object | None, kind: type) -> once[T] | T:
        """The value, or what went wrong."""
        if owner is None:
            return self
        held: dict[str, Callable[[], T]] = owner.__dict__.setdefault("_once", {})
        if self._name not in held:
            held[self._name] = _settled(lambda: self._compute(owner))
        return held[self._name]()

    def __set__(self, owner: object, value: T) -> None:
        """Give the value, where it is known already."""
        owner.__dict__.setdefault("_once", {})[self._name] = lambda: value


def _settled(compute: Callable[[], T]) -> Callable[[], T]:
    """A function that gives what `compute` gave, or raises what it raised."""
    try:
        value = compute()
    except (InputError, LeftOut) as error:
        trouble = error

        def again() -> T:
            raise trouble

        return again
    return lambda: value
