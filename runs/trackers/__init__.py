"""Experiment trackers: a file for each. Optional and thin; none of them can stop or hold up a search."""

from evomerge.runs.tracking import check_trackers, open_trackers

__all__ = ["check_trackers", "open_trackers"]
