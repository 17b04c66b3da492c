"""Named extension points: a file that exists in the right folder is a member. Every room may import this module."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from evomerge.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Members of one kind (merge methods, spaces, samplers, ...), each registered under one name.

    Args:
        kind: what a member is, as error messages say it ("merge method").
        package: the package whose modules register the built-in members when imported.
        group: the entry-point group through which other distributions add theirs.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._members: dict[str, T] = {}
        self._loaded = False

    def add(self, name: str, member: T) -> None:
        """Register `member`. Raises ValueError when another member has the name."""
        held = self._members.get(name)
        if held is not None and held is not member:
            raise ValueError(f"the name of a {self.kind} must be unique, but {name!r} is registered twice")
        self._members[name] = member

    def get(self, name: str) -> T:
        """The member called `name`. Raises InputError with the nearest name when there is none."""
        self._load()
        if name not in self._members:
            raise unknown_name(self.kind, name, self._members)
        return self._members[name]

    def names(self) -> tuple[str, ...]:
        """All names in alphabetical order."""
        self._load()
        return tuple(sorted(self._members))

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._group):
            self.add(entry.name, entry.load())
        self._loaded = True
