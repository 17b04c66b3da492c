"""Credentials in texts: found, and left out of whatever is kept or shown. Every room may import this module."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from evomerge.errors import InputError

HIDDEN = "***"
"""What stands in a text where a credential stood."""

_WEB = re.compile(r"(?P<scheme>\b(?:https?|git|ssh)://)[^\s/@'\"]{1,4000}@")
_PASSWORD = re.compile(r"(?P<user>\b[A-Za-z][\w+.-]{0,40}://[^\s:/@]{0,200}):[^\s'\"]{0,4000}@")
_SETTING = re.compile(
    r"(?P<name>(?:\b|%3B|%26)(?:\w{0,40}password|passwd|pwd|(?:(?:access|api|auth|hf|refresh)_?)?token|api_?key"
    r"|\w{0,40}secret)|(?<=[?&])sig(?:nature)?)(?P<is>=|%3D)[^\s&;'\"]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[bp]-)[A-Za-z0-9_-]{16,}")
_ENVIRONMENT = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)$", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<user>[^:/@]*)(?::[^@]*)?@(?:[^/?]*@)?")
_SHORTEST = 8  # characters of a value in the environment that is taken for a credential


def hide(text: str) -> str:
    """The text with `***` for every credential that can be told as one.

    These are passwords and tokens in URLs and connection strings, tokens of known makes (the hub's `hf_...`), and the
    values of environment variables whose names say what they are (HF_TOKEN, PGPASSWORD).
    """
    for value in _held():
        text = text.replace(value, HIDDEN)
    text = _WEB.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _PASSWORD.sub(rf"\g<user>:{HIDDEN}@", text)
    text = _SETTING.sub(rf"\g<name>\g<is>{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def public_url(url: str) -> str:
    """A database's URL without its password, wherever that stands: `postgresql://user@host/db`.

    Parameters of the query that hold a password, or a connection string with one, are left out.
    """
    scheme, separator, rest = url.partition("://")
    match = _AUTHORITY.match(rest)
    if match:
        rest = f"{match['user']}@{rest[match.end() :]}"
    place, mark, query = rest.partition("?")
    kept = [part for part in query.split("&") if not _SETTING.search(unquote(unquote(part)))]
    return f"{scheme}{separator}{place}{mark if kept != [''] and kept else ''}{'&'.join(kept)}"


def secret_keys(tree: Any, place: str = "") -> Iterator[str]:
    """The keys, such as `search.sampler_options.key`, whose texts hold a credential.

    Args:
        tree: mappings, lists and plain values.
        place: the key of the tree itself.
    """
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from secret_keys(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from secret_keys(value, f"{place}.{number}")
    elif isinstance(tree, str) and hide(tree) != tree:
        yield place


def require_no_secrets(tree: Mapping[str, Any], source: str, besides: str = "") -> None:
    """Raise InputError, without showing it, when a configuration holds a credential: it is kept in many places.

    Args:
        tree: the configuration as plain data.
        source: its name, for errors.
        besides: a key that may hold one, since whoever keeps it leaves that out.
    """
    for key in secret_keys(tree):
        if key != besides:
            raise InputError(
                f"{source}: {key} must hold no password or token, since a run keeps its configuration; give it in the "
                f"environment (HF_TOKEN, PGPASSWORD)"
            )


def _held() -> list[str]:
    """The credentials in the environment, longest first."""
    held = {value for name, value in os.environ.items() if _ENVIRONMENT.search(name) and len(value) >= _SHORTEST}
    return sorted((value for value in held if not value.isdigit()), key=len, reverse=True)
