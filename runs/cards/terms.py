"""What the sources' licences ask."""

from __future__ import annotations

import re

from evomerge.runs.exporting import Export
from evomerge.runs.licences import Found

_VERDICTS = {
    "compatible": "The licences of all sources are known, and allow a merge for any use.",
    "obligations": "The licences of the sources allow a merge, and bind whoever publishes or uses it.",
    "unknown": "Not all licences of the sources are known. Find out before you publish or use the merge.",
    "refused": "The licences of the sources do not allow a published merge, as far as their table here goes.",
}
ADVICE = "Drawn from a table of common licences; it is no legal advice."


def licence(export: Export) -> str:
    """The section of the card."""
    verdict = export.verdict
    lines = ["## Licence\n", f"{_VERDICTS[verdict.kind]} {ADVICE}", ""]
    lines += [f"- conflict: {line}" for line in verdict.conflicts]
    lines += [f"- {line}" for line in verdict.obligations]
    lines += [f"- unknown: {model}" for model in verdict.unknown]
    return "\n".join(lines).rstrip() + "\n"


def licence_file(export: Export) -> str | None:
    """LICENSE.md: the terms of the sources, with the texts that came with them; None where nothing is known."""
    verdict = export.verdict
    texts = {name: card.texts for name, card in export.cards.items() if card.texts}
    if not texts and all(found.licence is None for found in verdict.sources):
        return None
    lines = ["# Terms of the sources\n", f"{_VERDICTS[verdict.kind]} {ADVICE}\n", "| source | licence |", "|---|---|"]
    lines += [f"| {found.model} | {_linked(found)} |" for found in verdict.sources]
    lines += ["", *[f"- {line}" for line in (*verdict.conflicts, *verdict.obligations)]]
    for name, own in texts.items():
        for file, text in own.items():
            lines += [f"\n## {file} of {name}\n", _fenced(text)]
    return "\n".join(lines).rstrip() + "\n"


def _linked(found: Found) -> str:
    licence = found.licence
    return (
        f"[{licence.title}]({licence.link})" if licence and licence.link else licence.title if licence else found.name
    )


def _fenced(text: str) -> str:
    """The text as it is: the fence is longer than any in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"
