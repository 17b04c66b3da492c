"""One thread a process: two pytest workers share two cores, and sums come out the same whatever the machine has."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("EVOMERGE_CACHE", str(Path(__file__).resolve().parents[1] / ".cache"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ("tests.servers",)
