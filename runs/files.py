"""Files that are there whole or not at all, and lines that are added to one."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import BaseModel

from evomerge.errors import EvomergeError


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` in one step. Raises EvomergeError when that fails; it is what it was then."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Add a line in one call of the system, on a line of its own whatever the file ends with.

    Raises:
        OSError: the file cannot be written, or took a part of the line only.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = f"{chr(10) * is_torn}{line}\n".encode()
        written = os.write(descriptor, data)
        if written < len(data):
            os.write(descriptor, data[written:])  # says why
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> EvomergeError:
    """What to say when a file of a run cannot be written."""
    return EvomergeError(
        f"a run's files must be writable, but {path}: {error.strerror or error}; what is scored is kept, and resume "
        f"goes on from there"
    )


def as_yaml(model: BaseModel, exclude_defaults: bool = False) -> str:
    """A model's fields in their own order."""
    data = model.model_dump(mode="json", exclude_defaults=exclude_defaults)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
