"""Sizes of memory and files, as people write them. Every room may import this module."""

from __future__ import annotations

import re

from evomerge.errors import InputError

UNITS = {"": 1, "B": 1, **{f"{p}B": 1000**k for k, p in enumerate("KMGT", 1)}}
UNITS |= {f"{p}IB": 1024**k for k, p in enumerate("KMGT", 1)}


def parse_size(text: str | int) -> int:
    """Bytes from text such as "6GB" (10^9), "6GiB" (2^30) or "500 MB".

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)\s*", str(text), re.IGNORECASE)
    unit = match[2].upper() if match else "?"
    unit = f"{unit}B" if unit in ("K", "M", "G", "T") else unit
    if match is None or unit not in UNITS or float(match[1]) <= 0:
        raise InputError(f"a memory limit must be a positive size such as 6GB or 500MiB, but got {text!r}")
    return int(float(match[1]) * UNITS[unit])


def readable(nbytes: int) -> str:
    """Bytes as people write them: "1.35 GB"."""
    size, unit = float(nbytes), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(size) < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
