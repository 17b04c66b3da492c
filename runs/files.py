"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import BaseModel


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def as_yaml(model: BaseModel, exclude_defaults: bool = False) -> str:
    """A model's fields in their own order."""
    data = model.model_dump(mode="json", exclude_defaults=exclude_defaults)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
