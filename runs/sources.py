"""What the sources of a merge say about themselves: their cards and licence files. Nothing here reads weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from evomerge.engine.checkpoint import HUB_ID
from evomerge.engine.recipe import ModelRef
from evomerge.errors import InputError
from evomerge.plain import parse_yaml
from evomerge.runs.licence_table import Licence, recognised

CARD = "README.md"
LICENCE_FILES = ("license*", "licence*", "copying*", "LICENSE*", "LICENCE*", "COPYING*", "License*", "Licence*")
NOTICE_FILES = ("NOTICE*", "notice*", "USE_POLICY*", "use_policy*")
MAX_TEXT = 200_000
"""Bytes of a card or licence file that are read; longer ones are no such file."""


@dataclass(frozen=True)
class Card:
    """What a source's folder or repository says.

    Attributes:
        where: the card's place, for messages; empty: there is none.
        licence: `license` of the metadata.
        licence_name: `license_name`.
        languages: `language`.
        recognised: the licence of a licence file, and that file's name.
        texts: licence and notice files by name.
    """

    where: str = ""
    licence: str = ""
    licence_name: str = ""
    languages: tuple[str, ...] = ()
    recognised: tuple[Licence, str] | None = None
    texts: dict[str, str] = field(default_factory=dict)


def parts_of(model: ModelRef) -> tuple[tuple[str, str | None], ...]:
    """(source, revision) of a model, and of its adapter after it."""
    own = ((model.model, model.revision),)
    return own if model.adapter is None else (*own, (model.adapter, None))


def card_of(source: str, revision: str | None = None) -> Card:
    """The card of a folder, a GGUF file or a hub id; empty where there is none or the hub cannot be reached."""
    path = Path(source).expanduser()
    if path.exists():
        return _read(path if path.is_dir() else path.parent)
    return _from_hub(source, revision) if HUB_ID.fullmatch(source) else Card()


def is_hub_id(source: str) -> bool:
    """Whether `source` names a repository of the hub and no folder here."""
    return not Path(source).expanduser().exists() and HUB_ID.fullmatch(source) is not None and "/" in source


def _read(folder: Path) -> Card:
    metadata = _metadata(_text(folder / CARD))
    texts = {}
    for patterns in (LICENCE_FILES, NOTICE_FILES):
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
            if text := _text(path):
                texts[path.name] = text
    return _card(metadata, str(folder / CARD), texts)


def _card(metadata: dict[str, Any], where: str, texts: dict[str, str]) -> Card:
    found = [(licence, name) for name, text in texts.items() if (licence := recognised(text))]
    language = metadata.get("language") or ()
    languages = (language,) if isinstance(language, str) else tuple(map(str, language))
    return Card(
        where if metadata else "",
        _word(metadata.get("license")),
        _word(metadata.get("license_name")),
        languages,
        found[0] if found else None,
        texts,
    )


def _word(value: Any) -> str:
    """`license` as text; lists, which some cards have, by their first entry."""
    first = value[0] if isinstance(value, list) and value else value
    return str(first) if isinstance(first, str | int | float) else ""


def _metadata(text: str) -> dict[str, Any]:
    """The YAML block that a card begins with; empty where there is none that can be read."""
    if not text.startswith("---"):
        return {}
    try:
        found = parse_yaml(text[3:].split("\n---", 1)[0], "a card must begin with YAML")
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        if not path.is_file() or path.stat().st_size > MAX_TEXT:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@cache
def _from_hub(source: str, revision: str | None) -> Card:
    """Card and licence file from the hub, or from its cache; asked for once a process."""
    from huggingface_hub import hf_hub_download

    texts = {}
    for name in (CARD, "LICENSE"):
        try:
            texts[name] = _text(Path(hf_hub_download(source, name, revision=revision)))
        except Exception:  # not there, or not reachable: the licence is then unknown, which is told
            continue
    metadata = _metadata(texts.pop(CARD, ""))
    return _card(metadata, f"the card of {source}", {name: text for name, text in texts.items() if text})
