"""Documentation as executed text: the code blocks of a page, run one after another in a folder."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.runs.conftest import Said

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d[\d.,]*")


class Block(NamedTuple):
    """A fenced block: its language, the file that it shows ("": none), and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Those of a page, in order."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def commands(block: Block) -> list[str]:
    """The lines of a shell block; a line that ends with a backslash goes on."""
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def follow(
    page: Path, folder: Path, evomerge: Callable[..., Said], smaller: Callable[[list[str]], Sequence[str]]
) -> int:
    """Do what a page says: write the files that have titles, run `sh` and `python` blocks, and compare `text` blocks.

    A line of a `text` block has to be in what the last command printed, with any numbers in place of its own.

    Args:
        page: of the documentation.
        folder: the working directory.
        evomerge: calls the command line.
        smaller: what to add to a command line so that it takes seconds.

    Returns:
        How many blocks were run.
    """
    names: dict[str, Any] = {}
    said, count = "", 0
    for block in blocks(page):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            said = "".join(_run(line, folder, evomerge, smaller) for line in commands(block))
        elif block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)  # the documentation's own lines
        elif block.language == "text":
            for line in block.text.splitlines():
                assert re.search(_pattern(line), said), f"{page.name} shows {line!r}, but the command said:\n{said}"
        else:
            continue
        count += 1
    return count


def _run(line: str, folder: Path, evomerge: Callable[..., Said], smaller: Callable[[list[str]], Sequence[str]]) -> str:
    verb, *arguments = shlex.split(line)
    if verb != "evomerge":
        return subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True, text=True).stdout
    said = evomerge(*arguments, *smaller(arguments))
    assert said.code == 0, f"{line}\n{said.error}"
    return said.out


def _pattern(line: str) -> str:
    words = [_NUMBER.sub("\0", word) for word in line.split()]
    return r"\s+".join(re.escape(word).replace(re.escape("\0"), _NUMBER.pattern) for word in words)
