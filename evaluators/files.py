"""Files of texts and documents that a configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.plain import parse_json

_JSON_LINES = {".jsonl", ".json", ".ndjson"}


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file, its line ends as they are.

    Args:
        path: of the file.
        what: the key of the configuration that names it, for errors.

    Raises:
        InputError: the file is not there or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{what} must be a file, but {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} must be UTF-8, but {str(path)!r} is not at byte {error.start}") from error


def read_documents(path: Path, what: str) -> list[Any]:
    """The documents of a file: one a line; blank lines are none.

    Args:
        path: ends in .jsonl, .json or .ndjson: each line is JSON; anything else: each line is a text.
        what: the key of the configuration that names it, for errors.

    Raises:
        InputError: the file cannot be read, has no document, or a line that is no JSON.
    """
    text = read_text(path, what)
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{what} must be a file with documents, but {str(path)!r} is empty")
    if path.suffix not in _JSON_LINES:
        return [line for _, line in lines]
    of = f"of {str(path)!r} must be JSON"
    return [
        parse_json(line, f"{what} must be a file of JSON lines: line {number} {of}", finite=False)
        for number, line in lines
    ]
