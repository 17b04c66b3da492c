"""A module that nobody has named: importing it leaves a trace."""

import os
from pathlib import Path

from optuna.samplers import RandomSampler

Path(os.environ["EVOMERGE_TRAP"]).mkdir()


class Sampler(RandomSampler):
    """Never built."""
