"""Where evomerge keeps what it can make again. Every room may import this module."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "EVOMERGE_CACHE"
"""The environment variable that says where."""


def cache_folder() -> Path:
    """$EVOMERGE_CACHE, by default ~/.cache/evomerge; it may not exist yet."""
    return Path(os.environ.get(CACHE) or "~/.cache/evomerge").expanduser()
