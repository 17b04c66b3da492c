"""The fewest beginnings of dotted names that tell some names from others."""

from __future__ import annotations

import re
from collections.abc import Collection


def beginnings(members: Collection[str], others: Collection[str]) -> list[str]:
    """Dotted beginnings such that every member has one of them, and none of the others has.

    Each is as short as can be: `self_attn` instead of its projections where no other name begins so.

    Args:
        members: names such as "self_attn.q_proj.weight".
        others: names to keep apart; none is a member.
    """
    found: list[str] = []
    for name in sorted(members):
        if any(begins(name, each) for each in found):
            continue
        parts = name.split(".")
        heads = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        found.append(next(head for head in heads if not any(begins(other, head) for other in others)))
    return found


def begins(name: str, head: str) -> bool:
    """Whether `head` is the name or its first parts."""
    return name == head or name.startswith(f"{head}.")


def pattern_of(heads: Collection[str], inside: bool) -> str:
    r"""A regular expression, to be searched, of the names with one of these beginnings: `^(mlp|self_attn)(\.|$)`.

    Args:
        heads: dotted beginnings.
        inside: whether names are paths inside a layer; whole names may have a prefix that files leave out.
    """
    start = "^" if inside else r"(^|\.)"
    return rf"{start}({'|'.join(map(re.escape, heads))})(\.|$)"
