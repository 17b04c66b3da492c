"""Regular expressions from recipes and adapters: those that could take for ever are refused. No torch here.

A pattern is tried on hundreds of names of up to hundreds of characters. Python's engine goes back over every way to
divide a name between the repeats of a pattern: exponentially many when a repeat stands inside of a repeated group.
"""

from __future__ import annotations

import re

LONGEST = 2_000
REPEATS = 3

_ESCAPED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)  # an escape, or a set of characters: one character
_REPEAT = re.compile(r"[*+]|\{\d*,?\d*\}")


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression.

    Raises:
        re.error: it is none, is longer than `LONGEST`, has more than `REPEATS` repeats (`*`, `+`, `{m,n}`), or
            repeats a group.
    """
    if len(pattern) > LONGEST:
        raise re.error(f"at most {LONGEST} characters are read")
    try:
        found = re.compile(pattern)
    except (OverflowError, RecursionError) as error:
        raise re.error(str(error)) from None
    bare = _ESCAPED.sub("x", pattern)
    if len(_REPEAT.findall(bare)) > REPEATS:
        raise re.error(f"at most {REPEATS} repeats are tried")
    if re.search(rf"\)(?:{_REPEAT.pattern})", bare):
        raise re.error("groups cannot be repeated; repeat a character or a set of them")
    return found
