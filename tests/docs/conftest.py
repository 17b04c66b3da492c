"""The command line, as the tests of runs call it."""

from tests.runs.conftest import evomerge

__all__ = ["evomerge"]
